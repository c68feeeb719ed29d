"""The columns of a shard's items, as a checkpoint names them."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.item import Column, ItemSpec, transition_item
from replay_server.table_checks import MAX_MASK_BYTES

MAX_STACK = 1024
"""More than any network needs. A file with a larger stack is damaged."""


def layout_of_item(item: ItemSpec) -> dict[str, Any]:
    """The columns of an item as JSON; `item_of_layout` reads it."""
    if item == transition_item(item.stack, item.mask_bytes):
        # As in earlier versions; they had no masks.
        return {"stack": item.stack, **({"mask_bytes": m} if (m := item.mask_bytes) else {})}
    return {
        "observations": [[c.name, c.dtype, list(c.shape)] for c in item.observations],
        "values": [[c.name, c.dtype, list(c.shape)] for c in item.values],
    }


def item_of_layout(layout: dict[str, Any]) -> ItemSpec:
    """The item of `layout_of_item`, out of a file.

    Raises:
        ValueError: impossible sizes, or columns that are none.
        KeyError, TypeError: there are none.
    """
    if "values" not in layout:
        stack = natural(layout["stack"], "stack")
        mask_bytes = natural(layout.get("mask_bytes", 0), "mask_bytes")
        if not 1 <= stack <= MAX_STACK or mask_bytes > MAX_MASK_BYTES:
            raise ValueError(f"stack={stack}, mask_bytes={mask_bytes}")
        return transition_item(stack, mask_bytes)
    item = ItemSpec(_columns(layout["observations"]), _columns(layout["values"]))
    stacks = {c.shape[-1:] for c in item.observations}
    if len(stacks) != 1 or not item.values or not 1 <= item.stack <= MAX_STACK:
        raise ValueError(f"observations of these stacks: {sorted(stacks)}")
    try:
        _ = item.dtype
    except (TypeError, ValueError) as error:
        raise ValueError(f"columns that are none ({error})") from None
    return item


def _columns(columns: list[Any]) -> tuple[Column, ...]:
    return tuple(
        Column(str(name), np.dtype(str(dtype)).name, tuple(natural(size, name) for size in shape))
        for name, dtype, shape in columns
    )


def natural(value: Any, name: Any) -> int:
    """A whole number from 0, out of a file.

    Raises:
        ValueError: another value; `name` is for the message.
    """
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{name}={value!r:.40}: must be a whole number from 0")
    return value

"""The columns of a shard's items, as a checkpoint names them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from common.item import Column, ItemSpec, transition_item
from common.wire import MAX_DIMENSIONS, TYPES
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
        ValueError: an impossible size, or an impossible column.
        KeyError, TypeError: a key is missing, or its value is of another kind.
    """
    if "values" not in layout:
        stack = natural(layout["stack"], "stack")
        mask_bytes = natural(layout.get("mask_bytes", 0), "mask_bytes")
        if mask_bytes > MAX_MASK_BYTES:
            raise ValueError(f"mask_bytes={mask_bytes}: must be at most {MAX_MASK_BYTES}")
        item = transition_item(stack, mask_bytes)
    else:
        item = ItemSpec(_columns(layout["observations"]), _columns(layout["values"]))
        _check_columns(item)
    if not 1 <= item.stack <= MAX_STACK:
        raise ValueError(f"stack={item.stack}: must be between 1 and {MAX_STACK}")
    return item


def _check_columns(item: ItemSpec) -> None:
    if not item.observations or not item.values:
        raise ValueError("items without an observation, or without a value")
    names = [column.name for column in item.columns]
    if len(set(names)) < len(names) or "stacks" in names:
        raise ValueError(f"names of columns: {', '.join(names)}")
    for column in item.observations:
        if column.dtype != "int32" or column.shape[-1:] != item.observations[0].shape[-1:]:
            raise ValueError(f"{column}: observations must be int32, of stacks of one length")
    for column in item.columns:
        size = math.prod(column.shape) * np.dtype(column.dtype).itemsize
        if size > MAX_MASK_BYTES or len(column.shape) > MAX_DIMENSIONS:
            raise ValueError(f"{column}: must have at most {MAX_MASK_BYTES} bytes")
        wrong_mask = column.name == "next_mask" and len(column.shape) != 1
        if wrong_mask or (column in item.observations and not column.shape):
            raise ValueError(f"{column}: must have a dimension")


def _columns(columns: list[Any]) -> tuple[Column, ...]:
    return tuple(
        Column(str(name), _type_of(dtype), tuple(natural(size, name) for size in shape))
        for name, dtype, shape in columns
    )


def _type_of(dtype: Any) -> str:
    # Some texts that numpy takes for types end the interpreter.
    if dtype not in TYPES:
        raise ValueError(f"type {dtype!r:.40}: must be one of {', '.join(TYPES)}")
    return str(dtype)


def natural(value: Any, name: Any) -> int:
    """A whole number from 0, out of a file.

    Raises:
        ValueError: another value; `name` is for the message.
    """
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{name}={value!r:.40}: must be a whole number from 0")
    return value

"""Checks of a table's sizes, and of a chunk before it changes the table."""

from __future__ import annotations

import numpy as np

from common.item import ItemSpec
from common.types import PAD, Array, Chunk

MAX_MASK_BYTES = 1 << 20
"""Larger than any network needs. A file with a larger mask is damaged."""


def check_sizes(capacity: int, item: ItemSpec, alpha: float, max_frame_bytes: int | None) -> None:
    """Check the sizes of a table; see `Table`.

    Raises:
        ValueError: a size below 1, too large an action mask, or alpha outside [0, 1].
    """
    for name, value in (
        ("capacity", capacity),
        ("stack", item.stack),
        ("max_frame_bytes", 1 if max_frame_bytes is None else max_frame_bytes),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not 0 <= item.mask_bytes <= MAX_MASK_BYTES:
        raise ValueError(f"mask_bytes={item.mask_bytes}: must be between 0 and {MAX_MASK_BYTES}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be between 0 and 1")


def check_columns(chunk: Chunk, item: ItemSpec) -> None:
    """Check the columns of a chunk of K items.

    Raises:
        ValueError: a column is missing, is not the item's, or is of another shape or type.
    """
    count = len(chunk)
    for name, (dtype, form) in item.forms.items():
        found = chunk.columns.get(name)
        if found is None:
            raise ValueError(f"chunk without column {name!r}: the table's items have it")
        shape = (count, *form)
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(
                f"chunk column {name!r} of {found.dtype} {found.shape}: must be {dtype} {shape}"
            )
    if len(chunk.columns) != len(item.forms):
        extra = next(name for name in chunk.columns if name not in item.forms)
        raise ValueError(f"chunk with column {extra!r}: the table's items do not have it")
    if chunk.priority is not None and chunk.priority.shape != (count,):
        raise ValueError(f"priority of shape {chunk.priority.shape}: must be {(count,)}")


def checked_stacks(chunk: Chunk, item: ItemSpec) -> Array:
    """All stacks of each item of a chunk, `[K, stacks, S]` int64.

    Args:
        chunk: its columns are those of the item.
        item: of the table.

    Raises:
        ValueError: a stack names a frame outside the chunk.
    """
    count, frames = len(chunk), chunk.num_frames + len(chunk.reused)
    if chunk.reused.dtype != np.int32:
        raise ValueError(f"reused frames of {chunk.reused.dtype}: must be int32")
    stacks = np.empty((count, item.num_stacks, item.stack), np.int64)
    for name, place in item.places.items():
        stacks[:, place] = chunk[name].reshape(count, place.stop - place.start, item.stack)
    # PAD, the least number allowed, becomes 0; a lesser number becomes a very large one.
    if count and (stacks - PAD).view(np.uint64).max() > frames:
        raise ValueError(f"a stack names a frame outside the chunk's {frames}")
    return stacks

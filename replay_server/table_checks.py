"""Checks of a table's sizes, and of a chunk before it changes the table."""

from __future__ import annotations

import numpy as np

from common.text import counted
from common.types import PAD, Array, Chunk

MAX_MASK_BYTES = 1 << 20
"""Larger than any network needs. A file with a larger mask is damaged."""


def check_sizes(
    capacity: int, stack: int, alpha: float, max_frame_bytes: int | None, mask_bytes: int
) -> None:
    """Check the sizes of a table; see `Table`.

    Raises:
        ValueError: a size below 1, too large an action mask, or alpha outside [0, 1].
    """
    for name, value in (
        ("capacity", capacity),
        ("stack", stack),
        ("max_frame_bytes", 1 if max_frame_bytes is None else max_frame_bytes),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not 0 <= mask_bytes <= MAX_MASK_BYTES:
        raise ValueError(f"mask_bytes={mask_bytes}: must be between 0 and {MAX_MASK_BYTES}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be between 0 and 1")


def check_mask(chunk: Chunk, mask_bytes: int) -> None:
    """Check the action masks of a chunk.

    Args:
        chunk: of K transitions.
        mask_bytes: M; 0: the table keeps no masks.

    Raises:
        ValueError: there are none where the table keeps some, or the other way round, or they are
            of another shape or type.
    """
    mask = chunk.next_mask
    if mask is None:
        if mask_bytes:
            raise ValueError(
                "chunk without action masks: the table keeps masks of "
                f"{counted(mask_bytes, 'byte')}"
            )
        return
    if not mask_bytes:
        raise ValueError("chunk with action masks: the table keeps none")
    shape = (len(chunk), mask_bytes)
    if mask.dtype != np.uint8 or mask.shape != shape:
        raise ValueError(f"action masks of {mask.dtype} {mask.shape}: must be uint8 {shape}")


def checked_stacks(chunk: Chunk, stack: int) -> Array:
    """Both stacks of each transition of a chunk, `[K, 2, S]` int64.

    Args:
        chunk: of K transitions.
        stack: S, frames in an observation.

    Raises:
        ValueError: a column of another shape or type, or a stack that names a frame outside the
            chunk.
    """
    count, frames = len(chunk), chunk.num_frames + len(chunk.reused)
    shape, stack_shape = (count,), (count, stack)
    for name in ("action", "reward", "discount", "version", "priority"):
        column = getattr(chunk, name)
        if column is not None and column.shape != shape:
            raise ValueError(f"{name} of shape {column.shape}: must be {shape}")
    for numbers in (chunk.observation, chunk.next_observation):
        if numbers.shape != stack_shape:
            raise ValueError(f"stacks {numbers.shape}: must be {stack_shape}")
        if numbers.dtype.kind != "i":
            raise ValueError(f"stacks of {numbers.dtype}: must be signed whole numbers")
    if chunk.reused.dtype != np.int32:
        raise ValueError(f"reused frames of {chunk.reused.dtype}: must be int32")
    stacks = np.empty((count, 2, stack), np.int64)
    stacks[:, 0], stacks[:, 1] = chunk.observation, chunk.next_observation
    # PAD, the least number allowed, becomes 0; a lesser number becomes a very large one.
    if count and (stacks - PAD).view(np.uint64).max() > frames:
        raise ValueError(f"a stack names a frame outside the chunk's {frames}")
    return stacks

"""The columns of a sample, and the numbers of its frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.item import ItemSpec
from common.types import Array, FrameSpec, ShardSummary

SMALL_FRAME_BYTES = 256
"""For smaller frames, sending a repeated frame twice costs less than finding it."""

Columns = Mapping[str, tuple[tuple[int, ...], Any]]
Allocate = Callable[[Columns, ShardSummary], dict[str, Array]]


def own_arrays(columns: Columns, _: ShardSummary) -> dict[str, Array]:
    """A new array for each column."""
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in columns.items()}


def sample_columns(count: int, frames: int, frame: FrameSpec, item: ItemSpec) -> Columns:
    """Shape and type of each column of a sample.

    Args:
        count: B, items.
        frames: F, frames.
        frame: shape and type of a frame.
        item: the columns of an item.
    """
    return {
        "frames": ((frames, *frame.shape), frame.dtype),
        "key": ((count,), np.int64),
        "probability": ((count,), np.float64),
        "age": ((count,), np.int64),
        **{name: ((count, *shape), dtype) for name, (dtype, shape) in item.forms.items()},
    }


class FrameNumbering:
    """Numbers the frames of a sample, each once unless they are very small."""

    def __init__(self, frame: FrameSpec, frame_rows: int, is_packed: bool) -> None:
        """For a frame store of `frame_rows` rows; `is_packed`: it compresses its frames."""
        self._may_repeat = not is_packed and frame.nbytes < SMALL_FRAME_BYTES
        # Scratch: the number in the sample of each row of the store.
        self._number_of_row: Array = np.zeros(0 if self._may_repeat else frame_rows + 1, np.int32)

    def number(self, stacks: Array) -> tuple[Array, Array]:
        """Rows of the frames to gather, and the frames of each stack as numbers among them.

        Args:
            stacks: `[B, stacks, S]`, rows of the frame store.

        Returns:
            `[F]`, ascending unless frames may repeat, and `[B, stacks, S]` int32.
        """
        rows: Array
        if self._may_repeat:
            rows = stacks.reshape(-1)
            return rows, np.arange(len(rows), dtype=np.int32).reshape(stacks.shape)
        rows = np.sort(stacks, axis=None)
        is_new = np.empty(len(rows), bool)
        is_new[:1] = True
        np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
        rows = rows[is_new]
        # Looking numbers up takes a sixth of the time of numpy.unique's inverse.
        self._number_of_row[rows] = np.arange(len(rows), dtype=np.int32)
        return rows, self._number_of_row[stacks]

"""The row that a table keeps of each item, beside its frames."""

from __future__ import annotations

import math

import numpy as np

from replay_server.sum_tree import SumTree

COUNT = np.dtype(np.uint32)
ONE = COUNT.type(1)


def item_dtype(stack: int) -> np.dtype[np.void]:
    """Type of an item. It is one row: reading it costs one access to memory, not one per column."""
    return np.dtype(
        [
            ("stacks", np.int32, (2, stack)),  # rows of frames: observation, next observation
            ("action", np.int32),
            ("reward", np.float32),
            ("discount", np.float32),
            ("version", np.int64),
        ]
    )


def item_bytes(capacity: int, stack: int) -> int:
    """Bytes of one item of a table without its frames: its row, count and share of the tree.

    Args:
        capacity: of the table, items.
        stack: S, frames in an observation.
    """
    tree = SumTree.bytes_of(capacity)
    return item_dtype(stack).itemsize + COUNT.itemsize + math.ceil(tree / capacity)

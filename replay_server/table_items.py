"""The row that a table keeps of each item, beside its frames."""

from __future__ import annotations

import math

import numpy as np

from replay_server.sum_tree import SumTree

COUNT = np.dtype(np.uint32)
ONE = COUNT.type(1)


def item_dtype(stack: int, mask_bytes: int = 0) -> np.dtype[np.void]:
    """Type of an item. It is one row: reading it costs one access to memory, not one per column.

    Args:
        stack: S, frames in an observation.
        mask_bytes: M; 0: items have no action mask.
    """
    return np.dtype(
        [
            ("stacks", np.int32, (2, stack)),  # rows of frames: observation, next observation
            ("action", np.int32),
            ("reward", np.float32),
            ("discount", np.float32),
            ("version", np.int64),
            *([("next_mask", np.uint8, (mask_bytes,))] if mask_bytes else []),
        ]
    )


def item_bytes(capacity: int, stack: int, mask_bytes: int = 0) -> int:
    """Bytes of one item of a table without its frames: its row, count and share of the tree.

    Args:
        capacity: of the table, items.
        stack: S, frames in an observation.
        mask_bytes: M, of the action mask; 0: there is none.
    """
    tree = SumTree.bytes_of(capacity)
    return item_dtype(stack, mask_bytes).itemsize + COUNT.itemsize + math.ceil(tree / capacity)

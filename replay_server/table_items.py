"""Memory that a table needs for each item, beside its frames."""

from __future__ import annotations

import math

import numpy as np

from common.item import ItemSpec
from replay_server.sum_tree import SumTree

COUNT = np.dtype(np.uint32)
ONE = COUNT.type(1)


def item_bytes(capacity: int, item: ItemSpec) -> int:
    """Bytes of one item of a table without its frames: its row, count and share of the tree.

    Args:
        capacity: of the table, items.
        item: its columns.
    """
    tree = SumTree.bytes_of(capacity)
    return item.dtype.itemsize + COUNT.itemsize + math.ceil(tree / capacity)

"""A binary tree of sums for drawing items in proportion to their mass.

Vectorised with numpy. With numba installed, a tree in heavy use changes to compiled loops. Both
give the same bits, so that the moment of the change does not matter.
"""

from __future__ import annotations

import threading
from types import ModuleType

import numpy as np

from common.types import Array

COMPILED_AFTER_CALLS = 2_048
"""Importing numba takes 0.6 s of CPU; a call gains 0.1 to 0.2 ms by it. A short run gains less."""

BLOCK = 16
"""Leaves under one lowest sum: two cache lines. The sums in between are computed when needed."""


class SumTree:
    """Masses of `capacity` leaves and their sums, in float64.

    A parent is always recomputed from its two children, never changed by a difference: rounding
    errors cannot pile up, and equal leaves give an equal tree after any history. The lowest four
    levels of sums are not stored, so that the rest fits the processor's cache.
    """

    def __init__(self, capacity: int) -> None:
        """All masses zero.

        Raises:
            ValueError: a capacity below 1.
        """
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        self.capacity = capacity
        blocks = -(-capacity // BLOCK)
        self._depth = (blocks - 1).bit_length()
        self._blocks = 1 << self._depth
        self._masses: Array = np.zeros(self._blocks * BLOCK, np.float64)
        # Node i has children 2i and 2i+1; the last `_blocks` nodes are sums of blocks.
        self._sums: Array = np.zeros(2 * self._blocks, np.float64)
        self._kernels: ModuleType | None = None
        self._calls = 0

    @property
    def compiled(self) -> bool:
        """Whether the compiled loops are in use."""
        return self._kernels is not None

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self._sums[1])

    @staticmethod
    def bytes_of(capacity: int) -> int:
        """Bytes of a tree."""
        blocks = 1 << (-(-capacity // BLOCK) - 1).bit_length()
        return 8 * (blocks * BLOCK + 2 * blocks)

    def get(self, leaves: Array) -> Array:
        """Masses of these leaves, `[n]` float64."""
        masses: Array = self._masses[leaves]
        return masses

    def set(self, leaves: Array, masses: Array, checked: bool = False) -> None:
        """Set the masses of `leaves` (`[n]` int); of a repeated leaf the last mass counts.

        Args:
            leaves, masses: `[n]`.
            checked: the caller knows that every mass is finite and at least 0.

        Raises:
            ValueError: a mass that is NaN, infinite or negative.
        """
        if not len(leaves):
            return
        if not checked and not (masses.min() >= 0 and masses.max() < np.inf):  # false for NaN
            raise ValueError("a mass is NaN, infinite or negative")
        self._count_call()
        if self._kernels is not None:
            places, values = np.array(leaves, np.int64), np.array(masses, np.float64)
            self._kernels.set_leaves(self._masses, self._sums, places, values, self._depth)
            return
        self._masses[leaves] = masses
        blocks = leaves >> 4
        if len(blocks) > self._blocks // 2:
            blocks = np.unique(blocks)
        nodes = blocks + self._blocks
        self._sums[nodes] = _halved(self._masses.reshape(-1, BLOCK)[blocks], 1)[:, 0]
        for level in range(self._depth):
            nodes = nodes >> 1
            # Siblings share a parent, so there are fewer nodes at each level. Sorting costs
            # more than it saves until they are many against the level's width.
            if len(nodes) > (self._blocks >> (level + 1)) // 2:
                nodes = np.unique(nodes)
            children = nodes << 1
            self._sums[nodes] = self._sums[children] + self._sums[children + 1]

    def find(self, points: Array) -> Array:
        """The leaf under each point of the line on which the masses lie end to end.

        Args:
            points: `[n]` float64 in [0, total).

        Returns:
            `[n]` int64. A leaf of zero mass is never among them, as long as `total` is positive.
        """
        rest = np.array(points, np.float64)
        self._count_call()
        if self._kernels is not None:
            places = np.empty(len(rest), np.int64)
            self._kernels.find_leaves(self._masses, self._sums, rest, places, self._depth)
            return places
        places = np.ones(len(rest), np.int64)
        for _ in range(self._depth):
            places <<= 1
            left = self._sums[places]
            # Rounding may carry a point past the last mass of a subtree: then stay on the left.
            right = (rest >= left) & (self._sums[places + 1] > 0)
            rest -= left * right
            places += right
        blocks = places - self._blocks
        masses = self._masses.reshape(-1, BLOCK)[blocks]  # [n, BLOCK]
        rows, within = np.arange(len(rest)), np.zeros(len(rest), np.int64)
        for width in (2, 4, 8, 16):
            sums = _halved(masses, width)
            within <<= 1
            left = sums[rows, within]
            right = (rest >= left) & (sums[rows, within + 1] > 0)
            rest -= left * right
            within += right
        return blocks * BLOCK + within

    def compile(self) -> None:
        """Change to the compiled loops now, if numba is installed and works.

        Takes a fraction of a second; seconds the first time on a machine, until numba has cached
        the compiled code.
        """
        try:
            from replay_server import tree_kernels
        except Exception:  # not installed, too old for this numpy, no place for its cache …
            return
        self._kernels = tree_kernels

    def check(self) -> None:
        """Raise AssertionError unless every sum is that of its children."""
        blocks = _halved(self._masses.reshape(-1, BLOCK), 1)[:, 0]
        assert np.array_equal(self._sums[self._blocks :], blocks)
        inner = np.arange(1, self._blocks)
        assert np.array_equal(self._sums[inner], self._sums[2 * inner] + self._sums[2 * inner + 1])
        assert (self._masses >= 0).all()
        assert np.isfinite(self._sums[1:]).all()
        assert not self._masses[self.capacity :].any()

    def _count_call(self) -> None:
        self._calls += 1
        if self._calls == COMPILED_AFTER_CALLS and self._kernels is None:
            threading.Thread(target=self.compile, name="sum-tree-compiler").start()


def _halved(masses: Array, width: int) -> Array:
    """`[n, m]` → `[n, width]`: neighbours added up pair by pair, as a binary tree would."""
    while masses.shape[1] > width:
        masses = masses[:, 0::2] + masses[:, 1::2]
    return masses

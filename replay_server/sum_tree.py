"""A binary tree of sums for drawing items in proportion to their mass, vectorised with numpy."""

from __future__ import annotations

import numpy as np

from common.types import Array


class SumTree:
    """Masses of `capacity` leaves and their sums, in float64.

    A parent is always recomputed from its two children, never nudged by a difference: rounding
    errors cannot pile up, and equal leaves give an equal tree whatever happened before.
    """

    def __init__(self, capacity: int) -> None:
        """All masses zero.

        Raises:
            ValueError: a capacity below 1.
        """
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        self.capacity = capacity
        self._depth = max(1, (capacity - 1).bit_length())
        self._leaves = 1 << self._depth  # node i has children 2i and 2i+1; leaves come last
        self._nodes: Array = np.zeros(2 * self._leaves, np.float64)

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self._nodes[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the tree."""
        return self._nodes.nbytes

    def get(self, leaves: Array) -> Array:
        """Masses of these leaves, `[n]` float64."""
        masses: Array = self._nodes[self._leaves + leaves]
        return masses

    def set(self, leaves: Array, masses: Array) -> None:
        """Set the masses of `leaves` (`[n]` int); where one is named twice, the last counts.

        Raises:
            ValueError: a mass that is NaN, infinite or negative.
        """
        if not (np.isfinite(masses).all() and (masses >= 0).all()):
            raise ValueError("a mass is NaN, infinite or negative")
        nodes = leaves + self._leaves
        self._nodes[nodes] = masses
        for level in range(self._depth):
            nodes = nodes >> 1
            # Siblings share their parents: fewer and fewer nodes on the way up. Sorting costs
            # more than it saves until they are many against the level's width.
            if len(nodes) > (self._leaves >> (level + 1)) // 2:
                nodes = np.unique(nodes)
            children = nodes << 1
            self._nodes[nodes] = self._nodes[children] + self._nodes[children + 1]

    def find(self, points: Array) -> Array:
        """The leaf under each point of the line on which the masses lie end to end.

        Args:
            points: `[n]` float64 in [0, total).

        Returns:
            `[n]` int64. A leaf of zero mass is never among them, as long as `total` is positive.
        """
        nodes = np.ones(len(points), np.int64)
        rest = points.copy()
        for _ in range(self._depth):
            nodes <<= 1
            left = self._nodes[nodes]
            # Rounding may carry a point past the last mass of a subtree: then stay on the left.
            right = (rest >= left) & (self._nodes[nodes + 1] > 0)
            rest -= left * right
            nodes += right
        nodes -= self._leaves
        return nodes

    def check(self) -> None:
        """Raise AssertionError unless every parent is the sum of its children."""
        inner = np.arange(1, self._leaves)
        sums = self._nodes[2 * inner] + self._nodes[2 * inner + 1]
        assert np.array_equal(self._nodes[inner], sums)
        assert (self._nodes >= 0).all()
        assert np.isfinite(self._nodes).all()
        assert not self._nodes[self._leaves + self.capacity :].any()

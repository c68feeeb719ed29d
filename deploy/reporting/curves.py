"""Learning curves of several seeds: their mean and a confidence band on a common grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.types import Array
from deploy.reporting.aggregate import CONFIDENCE

POINTS = 200
"""Places of the grid."""
REPEATS = 2_000
"""Times that the bootstrap draws."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The evaluations of one run over env steps or seconds.

    Attributes:
        x: `[k]`, rising.
        y: `[k]` scores.
        end: how far the run went; its last score holds until there.
    """

    x: Array
    y: Array
    end: float


@dataclass(frozen=True, slots=True)
class Band:
    """Mean and confidence band of several curves, as far as all of them reach.

    Attributes:
        x: `[n]`, from where every run has a score to the end of the shortest one.
        mean: `[n]`.
        low, high: `[n]` ends of the interval at each place; None for a single curve.
        count: number of curves.
        longest: end of the longest curve, which the single lines show.
    """

    x: Array
    mean: Array
    low: Array | None
    high: Array | None
    count: int
    longest: float

    @property
    def is_cut(self) -> bool:
        """Whether a curve goes on after the band has ended."""
        return self.longest > float(self.x[-1])


def at(curve: Curve, grid: Array) -> Array:
    """The last score known at each place of a grid; NaN before the first and after the end.

    No value comes from a later evaluation, as an interpolation would take it.

    Args:
        curve: of one run.
        grid: `[n]`.

    Returns:
        `[n]`.
    """
    index = np.searchsorted(curve.x, grid, side="right") - 1
    values = curve.y[np.maximum(index, 0)]
    known: Array = np.where((index < 0) | (grid > curve.end), np.nan, values)
    return known


def band(curves: Sequence[Curve], points: int = POINTS, seed: int = 0) -> Band | None:
    """The band of the curves of one group; None if they have no place in common.

    Whole curves are drawn with replacement (a bootstrap over seeds), and the percentiles of their
    means are taken at each place.

    Args:
        curves: of different seeds, each with one score at least.
        points: of the grid.
        seed: the same seed gives the same band.
    """
    if not curves:
        return None
    begin, end = max(float(one.x[0]) for one in curves), min(one.end for one in curves)
    if begin > end:
        return None
    grid = np.linspace(begin, end, points) if end > begin else np.array([begin])
    values = np.stack([at(one, grid) for one in curves])  # [runs, n]
    mean, longest = values.mean(0), max(one.end for one in curves)
    if len(curves) == 1:
        return Band(grid, mean, None, None, 1, longest)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(curves), size=(REPEATS, len(curves)))
    weights = np.stack([(drawn == run).mean(1) for run in range(len(curves))], 1)  # [repeats, runs]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(weights @ values, (tail, 1 - tail), axis=0)
    return Band(grid, mean, np.minimum(low, mean), np.maximum(high, mean), len(curves), longest)

"""Statistics over the scores of runs: mean, median, interquartile mean, and their intervals.

The method is that of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (the library rliable): the interquartile mean over all runs, and percentile
intervals of a bootstrap that draws runs anew within each task (a stratum).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.types import Array

CONFIDENCE = 0.95
"""Probability that an interval is made for."""
REPEATS = 10_000
"""Times that the bootstrap draws."""
TRIM = 0.25
"""Share of the values that the interquartile mean leaves out at either end."""
BLOCK = 1 << 22
"""Values drawn at a time, at the most: 32 MiB."""

Statistic = Callable[[Sequence[Array]], Array]
"""From the strata of many samples, each `[samples, runs]`, to one value per sample, `[samples]`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of a sample.

    Attributes:
        value: of the sample itself.
        low, high: ends of its interval; None where a stratum has a single value, which tells
            nothing about the spread.
        count: values in the sample, over all strata.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends; None if there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def is_apart_from(self, other: Estimate) -> bool | None:
        """Whether the two intervals do not overlap; None if one is missing."""
        mine, others = self.interval, other.interval
        if mine is None or others is None:
            return None
        return mine[1] < others[0] or others[1] < mine[0]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The statistics of one sample."""

    mean: Estimate
    median: Estimate
    iqm: Estimate


def trimmed_mean(values: Array) -> Array:
    """The interquartile mean over the last axis, as `scipy.stats.trim_mean(values, 0.25)`.

    A quarter of the values, rounded down, is left out at either end: of 3 values none, of 4 to 7
    one, of 10 two.

    Args:
        values: `[..., n]`.

    Returns:
        `[...]`.
    """
    count = values.shape[-1]
    cut = int(TRIM * count)
    kept: Array = np.sort(values, axis=-1)[..., cut : count - cut].mean(-1)
    return kept


def mean_of_tasks(strata: Sequence[Array]) -> Array:
    """Mean over tasks of the mean over runs (rliable's `aggregate_mean`)."""
    means: Array = np.stack([one.mean(-1) for one in strata], -1).mean(-1)
    return means


def median_of_tasks(strata: Sequence[Array]) -> Array:
    """Median over tasks of the mean over runs (rliable's `aggregate_median`)."""
    medians: Array = np.median(np.stack([one.mean(-1) for one in strata], -1), -1)
    return medians


def median_of_runs(strata: Sequence[Array]) -> Array:
    """Median over all runs."""
    medians: Array = np.median(np.concatenate(list(strata), -1), -1)
    return medians


def iqm_of_runs(strata: Sequence[Array]) -> Array:
    """Interquartile mean over the runs of all tasks (rliable's `aggregate_iqm`)."""
    return trimmed_mean(np.concatenate(list(strata), -1))


def difference_of_means(strata: Sequence[Array]) -> Array:
    """Mean of the first of two strata minus that of the second."""
    first, second = strata
    difference: Array = first.mean(-1) - second.mean(-1)
    return difference


def estimate(
    strata: Sequence[Sequence[float] | Array],
    statistic: Statistic,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Estimate:
    """A statistic with the percentile interval of its stratified bootstrap.

    The interval always contains the statistic: where the percentiles do not, it is widened.

    Args:
        strata: the values of each task.
        statistic: see `Statistic`.
        repeats: of the bootstrap.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: no stratum, one without a value, or a value that is not finite.
    """
    arrays = [np.asarray(one, np.float64) for one in strata]
    if not arrays or not all(one.ndim == 1 and one.size and np.isfinite(one).all()
                             for one in arrays):  # fmt: skip
        raise ValueError("each stratum must hold finite values, at least one")
    value = float(statistic([one[None] for one in arrays])[0])
    count = sum(one.size for one in arrays)
    if min(one.size for one in arrays) < 2:
        return Estimate(value, None, None, count)
    drawn = _resampled(arrays, statistic, repeats, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Estimate(value, min(value, float(low)), max(value, float(high)), count)


def _resampled(arrays: Sequence[Array], statistic: Statistic, repeats: int, seed: int) -> Array:
    """The statistic of `repeats` samples drawn with replacement within each stratum."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // sum(one.size for one in arrays))
    drawn = []
    for begin in range(0, repeats, block):
        samples = min(block, repeats - begin)
        drawn.append(
            statistic(
                [one[generator.integers(one.size, size=(samples, one.size))] for one in arrays]
            )
        )
    return np.concatenate(drawn)


def of_one_task(values: Sequence[float] | Array, repeats: int = REPEATS) -> Aggregate:
    """Mean, median and interquartile mean of the values of one task.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    return Aggregate(
        estimate([values], mean_of_tasks, repeats),
        estimate([values], median_of_runs, repeats),
        estimate([values], iqm_of_runs, repeats),
    )


def of_tasks(tasks: Sequence[Sequence[float] | Array], repeats: int = REPEATS) -> Aggregate:
    """Statistics over several tasks whose scores have the same scale, as rliable computes them.

    Args:
        tasks: for each task the scores of its runs, `[tasks, runs]`: equally many, or a task with
            more of them would outweigh the others in the interquartile mean.
        repeats: of the bootstrap.

    Raises:
        ValueError: no task, one without a score, a score that is not finite, or tasks of
            different numbers of runs.
    """
    if len({len(one) for one in tasks}) > 1:
        raise ValueError(f"tasks must have equally many runs, got {[len(one) for one in tasks]}")
    return Aggregate(
        estimate(tasks, mean_of_tasks, repeats),
        estimate(tasks, median_of_tasks, repeats),
        estimate(tasks, iqm_of_runs, repeats),
    )


def probability_of_improvement(first: Sequence[float], second: Sequence[float]) -> float:
    """P(a run of the first sample scores above one of the second); a tie counts half.

    It is Mann and Whitney's U, divided by the number of pairs.
    """
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())

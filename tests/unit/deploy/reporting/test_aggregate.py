"""Statistics over scores: against scipy, by hand, and what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.reporting.aggregate import (
    difference_of_means,
    estimate,
    iqm_of_runs,
    mean_of_tasks,
    median_of_tasks,
    of_one_task,
    of_tasks,
    probability_of_improvement,
    trimmed_mean,
)
from deploy.reporting.report_view import COVERAGE
from support.hypothesis_profiles import examples


def stats():
    """`scipy.stats`: imported by the process that tests with it, not by all that collect tests."""
    import scipy.stats

    return scipy.stats


SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(SCORES)
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores):
    got = trimmed_mean(np.array(scores))
    assert got == pytest.approx(stats().trim_mean(scores, 0.25), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "iqm"),
    [([1, 2, 9], 4.0), ([0, 1, 3, 100], 2.0), ([0, 1, 2, 3, 100], 2.0), ([7], 7.0)],
)
def test_a_quarter_rounded_down_is_left_out_at_either_end(scores, iqm):
    assert of_one_task(scores, repeats=10).iqm.value == iqm


@examples(25)
@given(st.lists(SCORES, min_size=1, max_size=4))
def test_a_statistic_lies_between_the_extremes_and_inside_its_interval(tasks):
    fewest = min(map(len, tasks))
    tasks = [scores[:fewest] for scores in tasks]
    low, high = min(map(min, tasks)), max(map(max, tasks))
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    found = of_tasks(tasks, repeats=50)
    for one in (found.mean, found.median, found.iqm):
        assert low - slack <= one.value <= high + slack
        assert one.count == sum(map(len, tasks))
        if min(map(len, tasks)) == 1:
            assert one.interval is None
        else:
            assert low - slack <= one.low <= one.value <= one.high <= high + slack


def test_intervals_are_those_of_scipys_percentile_bootstrap():
    scores = np.random.default_rng(3).normal(100, 15, 12)

    def iqm(values, axis):
        return stats().trim_mean(values, 0.25, axis=axis)

    for statistic, of_scipy in ((mean_of_tasks, np.mean), (iqm_of_runs, iqm)):
        mine = estimate([scores], statistic, repeats=50_000)
        theirs = (
            stats()
            .bootstrap((scores,), of_scipy, n_resamples=50_000, method="percentile", rng=1)
            .confidence_interval
        )
        # Percentiles of 50,000 draws differ by chance, by less than 2 % of the interval's width.
        width = theirs.high - theirs.low
        assert mine.interval == pytest.approx(tuple(theirs), abs=0.02 * width)


def test_runs_are_drawn_within_their_task_only():
    # Each task is constant: drawn within tasks, no sample differs from another.
    for statistic, value in ((mean_of_tasks, 50.0), (median_of_tasks, 50.0), (iqm_of_runs, 50.0)):
        found = estimate([[0.0] * 4, [100.0] * 4], statistic, repeats=100)
        assert (found.value, found.low, found.high) == (value, value, value)


def test_aggregates_over_tasks_are_those_of_rliable():
    tasks = [[0.0, 2.0], [10.0, 40.0], [5.0, 7.0]]
    found = of_tasks(tasks, repeats=10)
    assert found.mean.value == pytest.approx((1 + 25 + 6) / 3)
    assert found.median.value == 6.0  # of the tasks' means 1, 25, 6
    assert found.iqm.value == pytest.approx((2 + 5 + 7 + 10) / 4)  # of 6 runs without 2


def test_tasks_of_different_numbers_of_runs_are_refused():
    with pytest.raises(ValueError, match=r"equally many runs, got \[2, 3\]"):
        of_tasks([[1.0, 2.0], [1.0, 2.0, 3.0]], repeats=10)


def test_the_same_scores_have_the_same_interval_and_one_run_has_none():
    assert of_one_task([1.0, 2.0, 3.0]) == of_one_task([1.0, 2.0, 3.0])
    assert of_one_task([4.0]).mean.interval is None
    assert of_tasks([[2.0], [3.0]], repeats=10).mean.interval is None


@pytest.mark.parametrize("strata", [[], [[]], [[1.0], []], [[1.0, float("nan")]], [[[1.0]]]])
def test_what_has_no_statistic_is_refused(strata):
    with pytest.raises(ValueError, match="finite values"):
        estimate(strata, mean_of_tasks)


def test_intervals_that_touch_overlap():
    near, far = of_one_task([1.0, 3.0]).mean, of_one_task([4.0, 6.0]).mean
    assert near.is_apart_from(far) is True
    assert near.is_apart_from(of_one_task([3.0, 5.0]).mean) is False
    assert far.is_apart_from(of_one_task([1.0]).mean) is None


def test_the_difference_of_two_samples_has_an_interval_of_its_own():
    found = estimate([[10.0, 12.0, 14.0], [1.0, 1.0]], difference_of_means, repeats=500)
    assert found.value == 11.0
    assert 9.0 <= found.low < 11.0 < found.high <= 13.0


@given(SCORES, SCORES)
def test_the_probability_of_improvement_is_mann_and_whitneys_u(first, second):
    u = stats().mannwhitneyu(first, second, method="asymptotic").statistic
    got = probability_of_improvement(first, second)
    assert got == pytest.approx(u / (len(first) * len(second)))
    assert got + probability_of_improvement(second, first) == pytest.approx(1.0)


def test_intervals_of_few_values_hold_the_mean_as_often_as_a_page_says():
    generator = np.random.default_rng(0)
    for count in (2, 3, 5):
        samples = generator.normal(size=(300, count))
        held = 0
        for number, sample in enumerate(samples):
            found = estimate([sample], mean_of_tasks, repeats=300, seed=number)
            held += found.low <= 0 <= found.high
        assert held / len(samples) == pytest.approx(COVERAGE[count] / 100, abs=0.08)

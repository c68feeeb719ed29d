"""What bounded a run, from the shares of time in its reports."""

from __future__ import annotations

import pytest

from deploy.reporting.bounded import bounds_of, mean_bounds


def report(wall_s, learner_steps, learner=0.5, actor=0.2, waiting=None, env=0.5, policy=0.25):
    return {
        "wall_s": wall_s,
        "learner_steps": learner_steps,
        "learner_busy": learner,
        "actor_busy": actor,
        "env_share": env,
        "policy_share": policy,
        "limiter_waiting": waiting,
        "actors": 2,
    }


def test_start_and_warm_up_do_not_count_and_times_weigh():
    start = [report(30.0, 0, 0.0, 0.0, "learner", None, None), report(40.0, 5, 0.1, 0.9, "learner")]
    found = bounds_of(
        [*start, report(41.0, 50, 0.9), report(44.0, 90, 0.5, waiting="actors")], False
    )
    assert found.before_s == 40.0
    assert found.shares["learner busy"] == pytest.approx((0.9 + 3 * 0.5) / 4)
    assert found.shares["actors waited for the learner"] == pytest.approx(0.75)
    assert found.shares["learner waited for the actors"] == 0.0
    assert found.in_words().endswith("until learning began 40 s)")


def test_a_busy_learner_bounds_a_run_in_which_no_side_is_seen_waiting():
    found = bounds_of([report(1.0, 1), report(2.0, 2, 0.9)], False)
    assert found.verdict.startswith("the learner: it was busy in 90%")


def test_in_one_process_the_times_of_all_actors_add_up_to_the_whole():
    found = bounds_of([report(1.0, 1), report(2.0, 2, 0.3, 0.2), report(3.0, 3, 0.3, 0.2)], True)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.shares["environment steps"] == pytest.approx(2 * 0.2 * 0.5)
    assert found.shares["evaluations, checkpoints, reports"] == pytest.approx(1 - 0.3 - 0.4)


def test_actors_without_work_spend_no_time_on_steps():
    idle = report(2.0, 2, 0.9, 0.0, None, None, None)
    found = bounds_of([report(1.0, 1), idle, report(3.0, 3, 0.9, 0.4)], False)
    assert found.shares["environment steps"] == pytest.approx(0.4 * 0.5 / 2)


def test_reports_that_do_not_tell_give_no_verdict():
    assert bounds_of([], True) is None
    assert bounds_of([{"wall_s": 1.0}], True) is None
    assert mean_bounds([]) is None
    both = [bounds_of([report(1.0, 1), report(2.0, 2, busy)], False) for busy in (0.2, 0.6)]
    assert mean_bounds(both).shares["learner busy"] == pytest.approx(0.4)

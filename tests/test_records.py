"""What a run has done: taken in report by report, given out as lines of metrics."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from common.types import ActorReport, Episode, EvaluationReport
from deploy.records import Records, hash_arrays
from deploy.run import make_config
from replay_server.rate_limiter import RateLimiter


@pytest.fixture
def limiter():
    return RateLimiter(8.0, 100, 1_000.0, 16, 32)


def records(actors=2):
    config = make_config("cartpole", overrides={"actors": {"count": actors}})
    return Records(config, time.monotonic())


def actor(index, epsilon=0.1, **over):
    values = {
        "index": index, "incarnation": 0, "env_steps": 32, "frames": 32, "transitions": 30,
        "episodes": [], "epsilon": epsilon, "version": 1, "fetches": 1, "inserts_in_flight": 1,
        "wall_s": 0.1, "env_s": 0.05, "policy_s": 0.02, "insert_wait_s": 0.0,
    }  # fmt: skip
    return ActorReport(**(values | over))


def evaluation(score):
    return EvaluationReport(
        version=1, learner_steps=10, score=score, returns=[score], lengths=[1], epsilon=0.0,
        wall_s=0.1,
    )  # fmt: skip


def test_epsilon_is_a_mean_over_all_actors_or_nothing(limiter):
    kept = records(2)
    kept.actor(actor(0, 0.4))
    assert math.isnan(kept.line(limiter, False)["epsilon"]), "one of two says nothing of the mean"
    kept.actor(actor(1, 0.2))
    assert kept.line(limiter, False)["epsilon"] == pytest.approx(0.3)
    kept.actor(actor(1, 0.1))
    assert kept.line(limiter, False)["epsilon"] == pytest.approx(0.25)


def test_each_line_tells_of_its_own_time_and_totals_go_on(limiter):
    kept = records(1)
    kept.actor(actor(0, episodes=[Episode(7.0, 3, 0.1)]))
    first, second = kept.line(limiter, False), kept.line(limiter, True)
    assert first["episodes"] == [[7.0, 3, 0.1]]
    assert second["episodes"] == []
    assert (first["evaluating"], second["evaluating"]) == (False, True)
    assert first["env_steps"] == second["env_steps"] == 32
    assert second["return_mean_100"] == 7.0


def test_only_a_better_score_is_the_best(limiter):
    kept = records()
    assert [kept.evaluation(evaluation(s)) for s in (3.0, 2.0, 3.0, 4.0)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert (kept.score, kept.best_score, kept.counters.evaluations) == (4.0, 4.0, 4)


def test_state_restores_counters_and_scores(limiter):
    kept = records(1)
    kept.actor(actor(0))
    kept.evaluation(evaluation(5.0))
    kept.counters.wall_s = 12.0
    again = records(1)
    again.restore({"counters": {"env_steps": 32, "wall_s": 12.0, "later": 1}, **kept.state()})
    assert again.counters.env_steps == 32
    assert again.wall_s >= 12.0
    assert (again.score, again.best_score) == (5.0, 5.0)
    assert again.evaluated_steps == -1, "its weights were not evaluated in this life"


def test_a_run_without_a_score_restores_to_none():
    again = records(1)
    again.restore({"counters": {}, **records(1).state()})
    assert math.isnan(again.score)
    assert again.best_score == -math.inf


def test_equal_hashes_mean_equal_bytes_under_equal_names():
    one = {"a": np.arange(3.0), "b": np.ones(2)}
    assert hash_arrays(one) == hash_arrays(dict(reversed(one.items())))
    assert hash_arrays(one) != hash_arrays({"a": np.arange(3.0), "c": np.ones(2)})
    assert hash_arrays(one) != hash_arrays({"a": np.arange(3.0), "b": np.array([1, 1 + 1e-16 * 4])})

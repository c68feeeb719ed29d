"""Statistics of a run: reports in, report lines and the summary out."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from common.parts import shard
from common.types import (
    ActorReport,
    Episode,
    EvaluationReport,
    LearnerReport,
    ShardStatistics,
    ShardSummary,
)
from deploy.launch.presets import make_config
from deploy.runs.checkpoint_schema import RunState
from deploy.runs.statistics import RunStatistics, hash_arrays
from replay_server.rate_limiter import RateLimiter
from support.run_states import make_state


@pytest.fixture
def limiter():
    return RateLimiter(8.0, 100, 1_000.0, 16, 32)


def statistics_of(actors=2):
    config = make_config("cartpole", overrides={"actors": {"count": actors}})
    return RunStatistics(config, time.monotonic())


def restored(counters, **scores):
    """The state of a checkpoint with these counters and scores."""
    return RunState.model_validate({**make_state(), "counters": counters, **scores})


def actor(index, epsilon=0.1, **over):
    values = {
        "index": index, "incarnation": 0, "env_steps": 32, "frames": 32, "transitions": 30,
        "episodes": [], "epsilon": epsilon, "version": 1, "fetches": 1, "inserts_in_flight": 1,
        "dropped": 0, "unreachable": [],
        "wall_s": 0.1, "env_s": 0.05, "policy_s": 0.02, "insert_wait_s": 0.0,
    }  # fmt: skip
    return ActorReport(**(values | over))


def evaluation(score):
    return EvaluationReport(
        version=1, learner_steps=10, score=score, returns=[score], lengths=[1], epsilon=0.0,
        wall_s=0.1,
    )  # fmt: skip


def test_epsilon_is_a_mean_over_all_actors_or_nothing(limiter):
    kept = statistics_of(2)
    kept.actor(actor(0, 0.4))
    assert math.isnan(kept.line(limiter, False, 2)["epsilon"]), (
        "one of two says nothing of the mean"
    )
    kept.actor(actor(1, 0.2))
    assert kept.line(limiter, False, 2)["epsilon"] == pytest.approx(0.3)
    kept.actor(actor(1, 0.1))
    assert kept.line(limiter, False, 2)["epsilon"] == pytest.approx(0.25)


def test_each_line_covers_its_own_interval_and_totals_accumulate(limiter):
    kept = statistics_of(1)
    kept.actor(actor(0, episodes=[Episode(7.0, 3, 0.1)]))
    first, second = kept.line(limiter, False, 2), kept.line(limiter, True, 2)
    assert first["episodes"] == [[7.0, 3, 0.1]]
    assert second["episodes"] == []
    assert (first["evaluating"], second["evaluating"]) == (False, True)
    assert first["env_steps"] == second["env_steps"] == 32
    assert second["return_mean_100"] == 7.0


def learner(**over):
    shard = ShardSummary(
        shard=0, incarnation=0, total=1.0, size=50, nbytes=9, inserted=60, sampled=5, evicted=10,
        evicted_unsampled=1, stale=2, refused=3, orphaned=0,
    )  # fmt: skip
    values = {
        "learner_steps": 10, "steps": 10, "samples": 320, "version": 4, "target_syncs": 2,
        "loss": 0.5, "mean_q": 1.0, "td_error": 0.1, "grad_norm": 1.0, "weight_lag": 1.0,
        "data_age": 9.0, "replay": [shard, shard], "rounds_in_flight": 2, "wall_s": 0.1,
        "sample_wait_s": 0.0,
    }  # fmt: skip
    return LearnerReport(**(values | over))


def test_values_of_the_learner_are_nan_until_it_reports(limiter):
    # Shards fill up in the warm-up: 0 would be wrong, and after a resume every total would fall.
    expected = {
        "replay_size": 100, "replay_evicted": 20, "stale_priorities": 4, "refused_priorities": 6,
        "weights_version": 4, "target_syncs": 2, "rounds_in_flight": 2,
    }  # fmt: skip
    kept = statistics_of(1)
    kept.actor(actor(0))
    before = kept.line(limiter, False, 2)
    assert all(math.isnan(before[key]) for key in expected)
    kept.learner(learner())
    after = kept.line(limiter, False, 2)
    assert {key: after[key] for key in expected} == expected


def test_weights_that_actors_fetch_and_act_with_are_told(limiter):
    kept = statistics_of(3)
    assert math.isnan(kept.line(limiter, False, 2)["oldest_acting_version"])
    kept.actor(actor(0, version=7, fetches=2))
    kept.actor(actor(1, version=5, fetches=1))
    kept.actor(actor(0, version=8, fetches=1))
    line = kept.line(limiter, False, 2)
    assert (line["weights_fetched"], line["oldest_acting_version"]) == (4, 5)
    line = kept.line(limiter, False, 2)
    assert (line["weights_fetched"], line["oldest_acting_version"]) == (0, 5), "of this line's time"


def test_only_a_better_score_is_the_best(limiter):
    kept = statistics_of()
    assert [kept.evaluation(evaluation(s)) for s in (3.0, 2.0, 3.0, 4.0)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert (kept.score, kept.best_score, kept.counters.evaluations) == (4.0, 4.0, 4)


def test_state_restores_counters_and_scores(limiter):
    kept = statistics_of(1)
    kept.actor(actor(0))
    kept.evaluation(evaluation(5.0))
    kept.counters.wall_s = 12.0
    again = statistics_of(1)
    again.restore(restored({"env_steps": 32, "wall_s": 12.0, "later": 1}, **kept.state()))
    assert again.counters.env_steps == 32
    assert again.wall_s >= 12.0
    assert (again.score, again.best_score) == (5.0, 5.0)
    assert again.evaluated_steps == -1, "its weights were not evaluated in this attempt"


def test_transitions_that_no_shard_took_add_up(limiter):
    kept = statistics_of(2)
    for index in range(2):
        kept.actor(actor(index, dropped=7, unreachable=[shard(0)]))
    assert kept.line(limiter, False, 2)["dropped"] == kept.summary(limiter, {})["dropped"] == 14
    again = statistics_of(2)
    again.restore(restored({"dropped": 14}, **kept.state()))
    assert again.line(limiter, False, 2)["dropped"] == 14


def test_checkpoints_are_counted_in_this_attempt_and_the_last_ones_seconds_told(limiter):
    kept = statistics_of()
    assert kept.line(limiter, False, 2)["checkpoints"] == 0
    assert math.isnan(kept.line(limiter, False, 2)["checkpoint_s"])
    kept.checkpoint(0.5)
    kept.checkpoint(0.25)
    line = kept.line(limiter, False, 2)
    assert (line["checkpoints"], line["checkpoint_s"]) == (2, 0.25)


def test_the_newest_version_heard_of_is_the_learners_or_an_actors():
    kept = statistics_of(2)
    assert kept.version == -1
    kept.actor(actor(0, version=7))
    kept.actor(actor(1, version=5))
    assert kept.version == 7, "the learner has not reported yet"
    kept.learner(learner(version=9))
    assert kept.version == 9


def test_a_run_without_a_score_restores_to_none():
    again = statistics_of(1)
    again.restore(restored({}, **statistics_of(1).state()))
    assert math.isnan(again.score)
    assert again.best_score == -math.inf


def test_equal_hashes_mean_equal_bytes_under_equal_names():
    one = {"a": np.arange(3.0), "b": np.ones(2)}
    assert hash_arrays(one) == hash_arrays(dict(reversed(one.items())))
    assert hash_arrays(one) != hash_arrays({"a": np.arange(3.0), "c": np.ones(2)})
    assert hash_arrays(one) != hash_arrays({"a": np.arange(3.0), "b": np.array([1, 1 + 1e-16 * 4])})


def test_a_line_names_the_waiting_side_and_its_seconds_for_programs_too():
    now_s = [0.0]
    limiter = RateLimiter(8.0, 100, 1_000.0, 16, 32, lambda: now_s[0])
    now_s[0] = 12.3456
    line = statistics_of().line(limiter, False, 2)
    assert line["limiter"] == "learner waits for 12 s: 0 of 100 first transitions"
    assert (line["limiter_waiting"], line["limiter_waiting_s"]) == ("learner", 12.346)
    limiter.end_insert(0, 100)
    line = statistics_of().line(limiter, False, 2)
    assert (line["limiter_waiting"], line["limiter_waiting_s"]) == (None, 0.0)


def statistics(shard, drawn, age, lag, size=50):
    summary = ShardSummary(
        shard=shard, incarnation=0, total=1.0, size=size, nbytes=900, inserted=60, sampled=5,
        evicted=10, evicted_unsampled=1, stale=2, refused=3, orphaned=0,
    )  # fmt: skip
    return ShardStatistics(summary, [size, *[0] * 9], [1] * 8, drawn, age, lag)


def test_statistics_of_the_memory_stand_in_one_line_per_shard_and_in_all(limiter):
    kept = statistics_of(1)
    assert kept.line(limiter, False, 2)["replay"] is None
    kept.replay([statistics(0, 100, 10.0, 1.0), statistics(1, 300, 20.0, 2.0, size=70)])
    replay = kept.line(limiter, False, 2)["replay"]
    first, second = replay["shards"]
    assert (first["shard"], second["shard"], second["size"]) == (0, 1, 70)
    assert first["times_sampled"]["0"] == 50
    assert first["priorities"]["<1e-4"] == 1
    whole = replay["all"]
    assert (whole["size"], whole["nbytes"], whole["drawn"]) == (120, 1800, 400)
    assert (whole["age"], whole["version_lag"]) == (17.5, 1.75), "means over all that was drawn"
    assert whole["times_sampled"]["0"] == 120
    assert whole["priorities"]["<10"] == 2
    assert "shard" not in whole
    assert kept.line(limiter, False, 2)["replay"] is None, "each appears in one line"

"""A run's numbers among Ray's metrics, without Ray."""

from __future__ import annotations

import math

import pytest

from deploy.runtime import run_metrics
from deploy.runtime.run_metrics import COUNTERS, RunMetrics, metric_name


class Metric:
    """Stands for a counter or a gauge of Ray's."""

    def __init__(self) -> None:
        self.total = self.value = 0.0
        self.tags: dict[str, str] = {}

    def inc(self, amount, tags):
        self.total, self.tags = self.total + amount, tags

    def set(self, value, tags):
        self.value, self.tags = value, tags


@pytest.fixture
def made(monkeypatch):
    """Every metric, by the key of its number; of two runs' the later."""
    made: dict[str, Metric] = {}

    def make(key: str) -> Metric:
        made[key] = Metric()
        return made[key]

    monkeypatch.setattr(run_metrics, "_make_metric", make)
    return made


def test_numbers_that_only_grow_are_counters():
    assert metric_name("env_steps") == "raydqn_env_steps_total"
    assert metric_name("episodes_total") == "raydqn_episodes_total"
    assert metric_name("loss") == "raydqn_loss"
    assert "learner_steps" in COUNTERS


@pytest.mark.parametrize(("continued", "total"), [(False, 1_500.0), (True, 500.0)])
def test_a_service_that_replaces_another_does_not_count_twice(made, continued, total):
    run = RunMetrics("mine", continued)
    for steps in (1_000, 1_200, 1_500, 1_400):
        run.record({"env_steps": steps})
    assert made["env_steps"].total == total
    assert made["env_steps"].tags == {"run": "mine"}


def test_only_numbers_become_metrics(made):
    RunMetrics("mine").record(
        {"loss": 0.5, "score": None, "limiter": "open", "warm": True, "epsilon": math.nan}
    )
    assert set(made) == {"loss"}
    assert made["loss"].value == 0.5

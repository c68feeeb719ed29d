"""`raydqn bench scaling`: its settings, and the supervisor with 360 actors for a few seconds."""

from __future__ import annotations

from deploy.bench import scaling as bench_scaling
from deploy.cli.overrides import split_overrides
from deploy.launch.presets import make_config


def test_an_actor_sleeps_as_long_as_a_step_in_the_paper():
    overrides, rest = split_overrides(bench_scaling.OPTIONS)
    config = make_config("cartpole", overrides=overrides)
    assert rest == []
    assert abs(config.env.kwargs["step_s"] - bench_scaling.STEP_S) < 1e-6


def test_the_supervisor_reads_the_reports_of_360_actors(monkeypatch):
    monkeypatch.setattr(bench_scaling, "REPORTS", 2_000)
    rate, cost_s = bench_scaling._read_reports(360)
    # Wide bounds, because other tests use the cores, too. docs/scaling.md has the measurements.
    assert rate > 50
    assert 0 < cost_s < 0.005

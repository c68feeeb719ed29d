"""`raydqn bench scaling`, with few actors for a short time."""

from __future__ import annotations

from deploy import bench_scaling
from deploy.bench import BENCHMARKS


def test_actors_that_wait_do_what_waiting_allows_and_cost_the_driver_little(monkeypatch):
    monkeypatch.setattr(bench_scaling, "COUNTS", (1,))
    monkeypatch.setattr(bench_scaling, "CROWDS", (360,))
    monkeypatch.setattr(bench_scaling, "REPORTS", 1_000)
    monkeypatch.setattr(bench_scaling, "MEASURE_S", 8.0)
    found = {
        (figure.figure, figure.subject): figure.value for figure in BENCHMARKS["scaling"](None)
    }
    # Wide bounds: other tests have the cores meanwhile. docs/scaling.md has what was measured.
    assert 0.5 < found["of what waiting alone allows", "1 actors"] < 1.1
    assert found["driver's CPU per actor", "1 actors"] < 100
    assert found["supervisor's CPU per report", "360 actors that report at once"] < 5_000
    assert found["reports read", "360 actors that report at once"] > 50

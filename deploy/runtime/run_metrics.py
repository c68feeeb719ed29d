"""A run's numbers as metrics of Ray's, for Ray's dashboard and Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.runtime import ray_metrics

COUNTERS = (
    *("env_steps", "frames", "transitions", "learner_steps", "episodes_total", "restarts"),
    *("lost_with_nodes", "dropped", "checkpoints", "checkpoints_failed"),
)
"""Numbers of a report that only grow."""
PREFIX = "raydqn_"


def metric_name(key: str) -> str:
    """The name of a report's number among Ray's metrics; Prometheus puts `ray_` before it."""
    return PREFIX + (f"{key.removesuffix('_total')}_total" if key in COUNTERS else key)


class RunMetrics:
    """Hands the numbers of a run's reports to Ray: counters and gauges with the run's name."""

    def __init__(self, run: str, continued: bool = False) -> None:
        """Create metrics that have no value yet.

        Args:
            run: its name, the tag of every metric.
            continued: an earlier process counted for the same run. The totals of the first report
                then start the counters: the earlier process counted them already.
        """
        self._run = run
        self._continued = continued
        self._metrics: dict[str, Any] = {}
        self._totals: dict[str, float] = {}

    def record(self, report: Mapping[str, Any]) -> None:
        """Set the metrics to a report's numbers; skip NaN and every value that is no number."""
        for key, value in report.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
                self._set(key, float(value))

    def _set(self, key: str, value: float) -> None:
        tags = {"run": self._run}
        metric = self._metrics.get(key)
        if metric is None:
            metric = self._metrics[key] = _make_metric(key)
        if key not in COUNTERS:
            metric.set(value, tags)
            return
        total = self._totals.setdefault(key, value if self._continued else 0.0)
        if value > total:
            metric.inc(value - total, tags)
            self._totals[key] = value


def _make_metric(key: str) -> Any:
    """A counter or a gauge of Ray's for one number of a report."""
    kind = ray_metrics.counter if key in COUNTERS else ray_metrics.gauge
    return kind(metric_name(key).removesuffix("_total"), f"raydqn: {key}", ("run",))

"""How fast a run makes env steps now, from its newest reports, while another process runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.runs.folder import METRICS
from deploy.runs.metrics_file import recent_reports

OVER_S = 60.0
"""Seconds that a rate covers at the most."""
LEAST_S = 20.0
"""Seconds that it covers at the least."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a run.

    Attributes:
        env_steps_per_s: over the last minute of learning without an evaluation; None: unknown.
        idle_s: seconds since its last env step, or since its last report of an evaluation.
    """

    env_steps_per_s: float | None
    idle_s: float


def pace_of(run: Path, begun: Path) -> Pace:
    """The pace of a run in progress.

    Args:
        run: its folder.
        begun: a file that was written when this attempt began.
    """
    written_s = [0.0]
    for path in (run / METRICS, begun):
        with suppress(OSError):
            written_s.append(path.stat().st_mtime)
    silent_s = max(0.0, time.time() - max(written_s))
    reports = recent_reports(run)
    return Pace(_rate(reports), silent_s + _without_step_s(reports))


def _rate(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """Env steps per second over the newest reports, as far back as the run learnt and only that."""
    first = None
    for report in reversed(reports):
        if report.get("evaluating") or report["loss"] is None:
            break
        if reports[-1]["wall_s"] - report["wall_s"] > OVER_S:
            break
        first = report
    if first is None or reports[-1]["wall_s"] - first["wall_s"] < LEAST_S:
        return None
    steps = reports[-1]["env_steps"] - first["env_steps"]
    return max(0.0, float(steps / (reports[-1]["wall_s"] - first["wall_s"])))


def _without_step_s(reports: Sequence[Mapping[str, Any]]) -> float:
    """Seconds over which the newest reports tell the same number of env steps."""
    if not reports:
        return 0.0
    first = newest = reports[-1]
    for report in reversed(reports):
        if report["env_steps"] != newest["env_steps"] or report.get("evaluating"):
            break
        first = report
    return max(0.0, float(newest["wall_s"] - first["wall_s"]))

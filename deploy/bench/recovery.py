"""`raydqn bench recovery`: the time until a part is replaced, and the work that is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from common.errors import UserError
from deploy.bench.live_run import CommandStarter, Process, endless_run, wait_until
from deploy.bench.measurement import Measurement
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import read_metrics
from deploy.runs.run_status import read_status

QUICK_TO_NOTICE = (
    *("--replay.shards", "2", "--replay.capacity", "4000000"),  # so large that no item is evicted
    *("--checkpoint.every-s", "3", "--supervision.hung-after-s", "4"),
)
PARTS = ("shard-0", "learner", "weight-store", "actor-0")
BETWEEN_DEATHS_S = 5.0
GIVE_UP_AFTER_REPORTS = 60
SETTLED_REPORTS, SETTLED_WITHIN = 4, 2_500
"""Number of reports, and of transitions: the actors insert as many within half a second."""


def bench_recovery(repeat: int, start: CommandStarter) -> Iterator[Measurement]:
    """Seconds until the replacement of a dead or unresponsive part is ready; the lost work.

    Args:
        repeat: how often each part is killed and stopped.
        start: starts a command; `output` is where it writes.
    """
    measured: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with endless_run(start, *QUICK_TO_NOTICE) as (run, process):
        for _ in range(repeat):
            for part, end in product(PARTS, (signal.SIGKILL, signal.SIGSTOP)):
                _wait_for_part(run, part, 0, process)
                time.sleep(BETWEEN_DEATHS_S)
                seconds, lost = _recover(run, part, end, process)
                subject = f"{part}, {end.name}"
                measured["until another is ready", subject, "s"].append(seconds)
                for unit, amount in lost.items():
                    measured[f"{unit} lost", subject, unit].append(amount)
        begin = time.monotonic()
    measured["SIGTERM to the end", "the command", "s"].append(time.monotonic() - begin)
    for (figure, subject, unit), values in measured.items():
        yield Measurement.of(figure, subject, values, unit)


def _recover(
    run: Path, part: str, end: signal.Signals, process: Process
) -> tuple[float, dict[str, float]]:
    """Kill or stop a part: seconds until its replacement is ready, and the lost work by unit."""
    row = _row_of(read_status(RunFolder.open(run)), part)
    before = read_metrics(run)[-1]
    os.kill(row["pid"], end)
    begin_s = time.time()
    ready_s = _wait_for_part(run, part, row["incarnation"] + 1, process)
    seen = len(read_metrics(run))
    # The learner reports the sizes of shards; of a new shard only after the first sample.

    def settled() -> list[dict[str, Any]] | None:
        reports = read_metrics(run)
        if len(reports) >= seen + 5 and is_settled(reports):
            return reports
        if len(reports) > seen + GIVE_UP_AFTER_REPORTS:
            raise UserError(
                f"{part}: the lost transitions cannot be counted; check whether the memory is full"
            )
        return None

    reports = wait_until(settled, process)
    reports = [line for line in reports if line["wall_s"] > before["wall_s"]]
    lost: dict[str, float] = {}
    if part.startswith("shard"):
        lost["transitions"] = _missing(reports[-1]) - _missing(before)
    if part == "learner":
        steps = [line["learner_steps"] for line in (before, *reports)]
        lost["learner steps"] = max(0, *(a - b for a, b in pairwise(steps)))
    return ready_s - begin_s, lost


def _missing(report: dict[str, Any]) -> float:
    """Inserted transitions that no shard holds."""
    return float(report["transitions"] - report["replay_size"])


def is_settled(reports: list[dict[str, Any]]) -> bool:
    """Whether the newest reports agree on the missing transitions, except for those in flight."""
    missing = [_missing(report) for report in reports[-SETTLED_REPORTS:]]
    return max(missing) - min(missing) < SETTLED_WITHIN


def _wait_for_part(run: Path, part: str, incarnation: int, process: Process) -> float:
    """Wait until that incarnation of the part, or a later one, is ready; the time of its start."""

    def begun_s() -> float | None:
        status = read_status(RunFolder.open(run))
        row = _row_of(status, part)
        if row["incarnation"] >= incarnation and row["state"] == "ready" and row["pid"]:
            return float(status["at"] - row["age_s"])
        return None

    return wait_until(begun_s, process)


def _row_of(status: dict[str, Any], part: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = status["parts"]
    return next(row for row in rows if row["part"] == part)

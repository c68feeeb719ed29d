"""Reports: metrics, status and summary of a run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from common.errors import RemoteDiedError
from common.handles import Future
from common.types import Array, EvaluationReport, ShardStatistics
from deploy.reporting.status import PartStatus, run_status
from deploy.runs.log import detail_of
from deploy.runs.metrics import MetricsWriter
from deploy.supervisor.context import Context
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot


class Reports:
    """Writes reports. A report that cannot be written does not end the run."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """Reports without files; see `open`."""
        self._context = context
        self._fleet = fleet
        self._metrics: MetricsWriter | None = None
        self._status_s = -math.inf
        self._failing = False  # the newest report could not be written
        self._statistics: list[Future[ShardStatistics]] = []
        self._asked_s = context.started_s

    def open(self) -> None:
        """Append to the metrics of the run folder from now on."""
        self._metrics = MetricsWriter(self._context.folder.path)

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()

    def due(self, now: float) -> bool:
        """Whether the interval of reports is over."""
        return now - self._context.records.reported_s >= self._context.config.report.every_s

    def collect_statistics(self, now: float) -> None:
        """Ask all shards at intervals for their statistics, and take in the answers."""
        asked = self._statistics
        if asked and all(answer.done() for answer in asked):
            with suppress(RemoteDiedError):  # asked again after the restart
                self._context.records.replay([answer.result() for answer in asked])
            asked.clear()
        due = now - self._asked_s >= self._context.config.report.replay_every_s
        # A shard that cannot be restored raises the reason, which is for the health monitor.
        if not asked and due and all(slot.ready for slot in self._fleet.shards):
            self._asked_s = now
            asked += [slot.client.statistics() for slot in self._fleet.shards]

    def report(self, evaluating: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Write and show a report.

        Args:
            evaluating: whether an evaluation is in progress.

        Returns:
            The report, and the status of the run if it was written too.
        """
        context = self._context
        inline = not context.runtime.parallel  # there, a part is ready when it is made
        ready = sum(slot.ready or inline for slot in self._fleet.actors)
        line = context.records.line(context.limiter, evaluating, ready)
        assert self._metrics is not None, "open() comes first"
        self.record(partial(self._metrics.write, line))
        context.view.update(line)
        now = time.monotonic()
        if now - self._status_s < context.timeouts.status_every_s:
            return line, None
        self._status_s = now
        status = run_status(context.folder.path.name, line, self._part_statuses(now))
        context.folder.write_status(status)
        return line, status

    def save_best(self, report: EvaluationReport) -> None:
        """Keep the weights of the best evaluation."""
        self.record(partial(self._context.folder.save_best, report))

    def record(self, write: Callable[[], None]) -> None:
        """Write a file that the run does not depend on; warn once in a row if that fails."""
        try:
            write()
        except OSError as error:
            if not self._failing:
                self._context.notify(
                    f"{self._context.folder.path}: cannot be written: {error}; the run continues",
                    logging.WARNING,
                    detail_of(error),
                )
            self._failing = True
        else:
            self._failing = False

    def _part_statuses(self, now: float) -> Iterator[PartStatus]:
        fleet = self._fleet
        overdue_after_s = self._context.timeouts.overdue_after_s
        row = partial(part_status, now=now, overdue_after_s=overdue_after_s)
        for slot in fleet.core_parts:
            if slot is fleet.learner:
                rate = self._context.records.learner_steps_per_s(now)
                yield row(slot, rate=rate, unit="learner steps/s")
            else:
                yield row(slot)
        for slot in fleet.env_workers:
            yield row(slot, rate=slot.rate, unit="env steps/s")

    def summary(self, reason: str, tensors: dict[str, Array]) -> dict[str, Any]:
        """The summary of the run.

        Args:
            reason: why it stopped.
            tensors: of the learner.
        """
        policy = {name: t for name, t in tensors.items() if name.startswith("policy.")}
        return {
            "run": str(self._context.folder.path),
            **self._context.records.summary(self._context.limiter, policy),
            "protocol": self._context.program.spec.protocol,
            "stop_reason": reason,
        }

    def unfinished(self) -> dict[str, Any]:
        """The summary of the work so far, for a run that fails: its last weights are unknown."""
        return {**self.summary("", {}), "weights_sha256": None}


def part_status(
    slot: Slot[Any], now: float, overdue_after_s: float, rate: float = math.nan, unit: str = ""
) -> PartStatus:
    """The row of a part in the status.

    Args:
        slot: of the part.
        now: `time.monotonic()`.
        overdue_after_s: a heartbeat that is overdue for so long is shown.
        rate: of the part's work per second; NaN: not known.
        unit: of the rate.
    """
    return PartStatus(
        part=str(slot.part),
        incarnation=slot.incarnation,
        host=slot.place.host if slot.place else None,
        pid=slot.place.pid if slot.place else None,
        state=_state_of(slot, now, overdue_after_s),
        rate=round(rate, 1) if math.isfinite(rate) else None,
        unit=unit,
        age_s=round(now - slot.ready_s, 1) if slot.ready else None,
        restarts=slot.restarts,
    )


def _state_of(slot: Slot[Any], now: float, overdue_after_s: float) -> str:
    if slot.awaiting_restore:
        return "awaiting restore"
    if not slot.ready:
        return "pending placement" if slot.pending_placement else "starting"
    overdue_s = now - slot.pinged_s if slot.ping is not None else 0.0
    return f"unresponsive {overdue_s:.0f} s" if overdue_s > overdue_after_s else "ready"

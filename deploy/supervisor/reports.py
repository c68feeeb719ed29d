"""Reports: metrics, status and summary of a run."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future as Outcome
from contextlib import suppress
from functools import partial
from typing import Any

from common.config_operation import SupervisionConfig
from common.errors import RemoteDiedError
from common.handles import Future
from common.text import counted
from common.types import Array, EvaluationReport, ShardStatistics
from deploy.reporting.status import PartStatus, run_status
from deploy.runs.log import detail_of
from deploy.runs.metrics_file import MetricsWriter
from deploy.supervisor.context import Context
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot
from deploy.supervisor.timeouts import Timeouts


class Reports:
    """Writes reports. A report that cannot be written does not end the run."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """Reports without files; see `open`."""
        self._context = context
        self._fleet = fleet
        self._metrics: MetricsWriter | None = None
        self._disk = context.folder.disk
        self._status_s = -math.inf
        self._writes: deque[Outcome[None]] = deque()  # whose outcome was not looked at
        self._failing = False  # the newest report could not be written
        self._hangs_since_s: float | None = None  # the disk, as it was reported
        self._dropped = 0  # reports, as far as that was reported
        self._statistics: list[Future[ShardStatistics]] = []
        self._asked_s = context.started_s
        self._knows_device = False

    def open(self) -> None:
        """Append to the metrics of the run folder from now on."""
        self._metrics = MetricsWriter(self._context.folder.path)

    def close(self) -> None:
        """Close the metrics, after the reports that wait for the disk."""
        if self._metrics is not None:
            self._disk.submit(self._metrics.close, name="end of the metrics")
        self.look_at_disk()

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
        self.record(partial(self._metrics.write, dict(line)))  # views are given the other one
        context.view.update(line)
        self._check_precision(line["device"])
        now = time.monotonic()
        if now - self._status_s < context.timeouts.status_every_s:
            return line, None
        self._status_s = now
        status = run_status(context.folder.path.name, line, self._part_statuses(now))
        self._disk.submit(partial(context.folder.write_status, status), name="status")
        return line, status

    def _check_precision(self, device: str | None) -> None:
        """Warn once if the learner's device has no such number format; None: not known yet."""
        if device is None or self._knows_device:
            return
        self._knows_device = True
        if self._context.config.learner.precision == "tf32" and not device.startswith("cuda"):
            self._context.notify(
                f"learner.precision=tf32: has no effect on {device.partition(',')[0]}; the "
                "learner computes in fp32",
                logging.WARNING,
            )

    def save_best(self, report: EvaluationReport) -> None:
        """Keep the weights of the best evaluation."""
        self.record(partial(self._context.folder.save_best, report), name="best weights")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record how the run ended, after all reports.

        Raises:
            OSError: it cannot be written, or the disk has not responded in time.
        """
        folder, limit_s = self._context.folder, self._context.timeouts.disk_s
        self._disk.call(partial(folder.write_summary, summary), limit_s)

    def restore_best(self, saved: float | None) -> None:
        """Continue with the best weights in the run folder, never with a worse policy instead.

        Their score decides, not that of the checkpoint: the run may have found better weights
        after it, and a folder that was created anew may lack them.

        Args:
            saved: best score by the checkpoint.
        """
        context, kept = self._context, self._context.folder.best_score()
        context.records.best_score = -math.inf if kept is None else kept
        if saved is not None and kept is None:
            context.notify(
                f"the weights of the best evaluation (score {saved:g}) are missing from "
                f"{context.folder.path}; the next evaluation counts as the best",
                logging.WARNING,
            )

    # --- the disk -----------------------------------------------------------------------------

    def record(self, write: Callable[[], None], name: str | None = None) -> None:
        """Write a file that the run does not depend on; warn once in a row if that fails.

        Args:
            write: writes the file.
            name: see `Disk.submit`.
        """
        # Writes behind one that hangs may be cancelled: dropped, or replaced by a newer one.
        self._writes = deque(one for one in self._writes if not one.cancelled())
        self._writes.append(self._disk.submit(write, name))
        self._settle_writes()

    def look_at_disk(self) -> None:
        """Take in the outcomes of writes; report once that the disk hangs, and that it responds."""
        self._settle_writes()
        stuck_s, path = self._disk.stuck_s, self._context.folder.path
        if self._hangs_since_s is None:
            if stuck_s >= self._context.timeouts.disk_warning_s:
                self._hangs_since_s = time.monotonic() - stuck_s
                self._context.notify(
                    f"the run folder {path}: an access has taken {stuck_s:.0f} s; the run "
                    "continues, reports wait in memory",
                    logging.WARNING,
                )
        elif not stuck_s and not self._disk.waiting:
            lasted_s, self._hangs_since_s = time.monotonic() - self._hangs_since_s, None
            lost, self._dropped = self._disk.dropped - self._dropped, self._disk.dropped
            dropped = f"; dropped, since too many waited: {counted(lost, 'report')}" if lost else ""
            self._context.notify(
                f"the run folder {path}: responds again after {lasted_s:.0f} s{dropped}",
                logging.WARNING if lost else logging.INFO,
            )

    def _settle_writes(self) -> None:
        while self._writes and self._writes[0].done():
            write = self._writes.popleft()
            if write.cancelled():
                continue
            try:
                write.result()
            except OSError as error:
                if not self._failing:
                    self._context.notify(
                        f"{self._context.folder.path}: cannot be written: {error}; the run "
                        "continues",
                        logging.WARNING,
                        detail_of(error),
                    )
                self._failing = True
            else:
                self._failing = False

    # --- status and summary -------------------------------------------------------------------

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
        overdue_after_s = env_worker_overdue_s(
            self._context.timeouts, self._context.config.supervision
        )
        row = partial(part_status, now=now, overdue_after_s=overdue_after_s)
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


def env_worker_overdue_s(timeouts: Timeouts, config: SupervisionConfig) -> float:
    """Age of a ping at which an actor or evaluator is shown as unresponsive.

    During a long call a heartbeat takes two of its intervals to be seen.
    """
    return max(timeouts.overdue_after_s, 3 * config.heartbeat_every_s)


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
        restarted_at=slot.restarted_at,
        cause=slot.cause or None,
    )


def _state_of(slot: Slot[Any], now: float, overdue_after_s: float) -> str:
    if slot.awaiting_restore:
        return "awaiting restore"
    if not slot.ready:
        return "pending placement" if slot.pending_placement else "starting"
    overdue_s = now - slot.pinged_s if slot.ping is not None else 0.0
    return f"unresponsive {overdue_s:.0f} s" if overdue_s > overdue_after_s else "ready"

"""Recovery: restarts parts that failed, and gives the callers of a restarted part its handle.

A caller that finds a part dead skips it, reports it, and receives the new handle, once.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.errors import (
    CheckpointError,
    RemoteDiedError,
    RunFailedError,
    UnreadableError,
    UnresponsiveError,
    one_line,
)
from common.parts import PartId
from common.text import counted
from common.types import LearnerReport
from deploy.runs.log import detail_of
from deploy.supervisor.context import MAX_RESTARTS_WITHOUT_PROGRESS, Context
from deploy.supervisor.events import Event, PartLost, PartRestarted, Reconnected
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot


class Recovery:
    """Restarts parts.

    Attributes:
        to_reconnect: (caller, part) for each restarted, or lost, part whose new handle the caller
            needs, in order.
    """

    def __init__(
        self,
        context: Context,
        fleet: Fleet,
        mark_corrupt: Callable[[PartId, CheckpointError], None],
    ) -> None:
        """A recovery with nothing to do.

        Args:
            context: of the run.
            fleet: of the run.
            mark_corrupt: called with a part that the checkpoint it was restored from is corrupt
                for.
        """
        self._context = context
        self._fleet = fleet
        self._mark_corrupt = mark_corrupt
        self.to_reconnect: dict[tuple[Slot[Any], PartId], None] = {}
        self._failed_at_steps = -1  # learner steps when the learner last failed by its own error

    # --- restarts ---------------------------------------------------------------------------

    def retry_restores(self, now: float) -> Iterator[Event]:
        """Try again to fill the slots that await the storage."""
        for slot in self._fleet.core_parts:
            waited_s = now - slot.restore_tried_s
            if slot.awaiting_restore and waited_s >= self._context.timeouts.restore_retry_s:
                yield from self._fill(slot)

    def restart_all(self, failures: Iterable[tuple[Slot[Any], Exception]]) -> Iterator[Event]:
        """Restart the parts that the health monitor found.

        Args:
            failures: slots, each with the reason.
        """
        for slot, error in failures:
            if self._context.is_mistake(error) and not slot.ready:
                raise error  # of the constructor
            if isinstance(error, UnreadableError):
                self._context.runtime.kill(slot.handle)
                slot.cause, slot.cause_detail = _cause_of(slot, error), detail_of(error)
                yield PartLost(slot)
                self._await_restore(slot, error)
                continue
            if isinstance(error, CheckpointError):
                self._mark_corrupt(slot.part, error)
                slot.consecutive_failures -= 1  # the number of checkpoints is the limit
            yield from self.restart(slot, error)

    def restart(self, slot: Slot[Any], error: Exception) -> Iterator[Event]:
        """Restart a part that failed: same index, same ε, new random streams.

        Raises:
            RunFailedError: it failed too often in a row.
        """
        context = self._context
        slot.cause, slot.cause_detail = _cause_of(slot, error), detail_of(error)
        self._count_failure(slot, error)
        if slot.consecutive_failures > MAX_RESTARTS_WITHOUT_PROGRESS:
            raise RunFailedError(
                f"{slot.part} failed {counted(slot.consecutive_failures, 'time')} in a row; the "
                f"last time it {slot.cause}"
            ) from error
        context.runtime.kill(slot.handle)
        yield PartLost(slot)
        yield from self._fill(slot)

    def _count_failure(self, slot: Slot[Any], error: Exception) -> None:
        # Actors and evaluators show by their reports that they make progress.
        stable_s = self._context.timeouts.stable_after_s
        progressed = slot.core and slot.ready and time.monotonic() - slot.ready_s >= stable_s
        own_error = not isinstance(error, (RemoteDiedError, UnresponsiveError))
        if slot is self._fleet.learner and own_error:
            steps = self._context.counters.learner_steps
            progressed = steps > self._failed_at_steps
            self._failed_at_steps = max(self._failed_at_steps, steps)
        of_node = isinstance(error, RemoteDiedError) and error.machine
        self._context.counters.lost_with_nodes += of_node
        slot.consecutive_failures = 1 if progressed else slot.consecutive_failures + (not of_node)

    def _fill(self, slot: Slot[Any]) -> Iterator[Event]:
        """Start the part of an empty slot, if the storage is readable."""
        try:
            slot.renew(slot.incarnation + 1)
        except UnreadableError as error:
            self._await_restore(slot, error)
            return
        self._update_reconnections(slot)
        yield PartRestarted(slot)
        self._context.counters.restarts += 1
        slot.restarts += 1
        slot.restarted_at = time.time()
        self._context.notify(
            f"{slot.part} {slot.cause}; restarted", logging.WARNING, slot.cause_detail
        )

    def _await_restore(self, slot: Slot[Any], error: UnreadableError) -> None:
        """Leave the slot empty until the storage is readable.

        Raises:
            RunFailedError: it has been unreadable for too long.
        """
        now, limit_s = time.monotonic(), self._context.timeouts.unreadable_s
        slot.clear()
        slot.awaiting_restore, slot.restore_tried_s = True, now
        if math.isnan(slot.unreadable_from_s):
            slot.unreadable_from_s = now
            self._context.notify(
                f"{slot.part} cannot be restored yet: {error}; retrying for {limit_s:g} s",
                logging.WARNING,
                detail_of(error),
            )
        if now - slot.unreadable_from_s > limit_s:
            raise RunFailedError(f"{slot.part} cannot be restored: {error}") from error

    # --- progress ---------------------------------------------------------------------------

    def record_progress(self, report: LearnerReport) -> None:
        """Clear the failures of all parts that a learner's report shows to have made progress."""
        fleet, records = self._fleet, self._context.records
        # An error that comes back at the same step is no progress.
        if report.learner_steps > self._failed_at_steps:
            fleet.learner.consecutive_failures = 0
        store = fleet.weight_store
        if report.version > records.version and store.part not in report.unreachable:
            store.consecutive_failures = 0
        for summary in report.replay:
            slot = fleet.shards[summary.shard]
            if summary.incarnation != slot.incarnation:
                continue
            done = summary.inserted + summary.sampled
            if slot.progress_baseline is None:
                slot.progress_baseline = done
            elif done > slot.progress_baseline:
                slot.consecutive_failures = 0

    # --- reconnections ----------------------------------------------------------------------

    def note_unreachable(self, caller: Slot[Any], parts: Iterable[PartId]) -> None:
        """A caller found these parts dead: a ping verifies it, and the caller is reconnected.

        The parts come from another process. One that no part calls has no handle to hand out: it is
        named, and ignored.
        """
        slots = self._fleet.reconnectable
        for part in parts:
            if part not in slots:
                self._context.notify(
                    f"{caller.part} reports {part} as unreachable, which no part calls: ignored",
                    logging.WARNING,
                )
                continue
            slots[part].suspect = True
            self.to_reconnect[caller, part] = None

    def reconnect(self) -> Iterator[Event]:
        """Give callers the handles of restarted parts that are ready."""
        slots = self._fleet.reconnectable
        for caller, part in list(self.to_reconnect):
            slot = slots[part]
            # A part that is not ready may fail to start, and every caller with it.
            if slot.ready and not slot.suspect:
                caller.client.reconnect(part, slot.handle)
                del self.to_reconnect[caller, part]
                yield Reconnected(caller)

    def _update_reconnections(self, slot: Slot[Any]) -> None:
        fleet = self._fleet
        if slot is fleet.learner:  # it was started with the current handles
            for key in [key for key in self.to_reconnect if key[0] is slot]:
                del self.to_reconnect[key]
        if slot is fleet.weight_store:
            # Actors report the loss; the learner only at its next publication, and an evaluator
            # would continue with the weights it has.
            callers: list[Slot[Any]] = [fleet.learner]
            callers += [fleet.evaluator] if fleet.evaluator is not None else []
            for caller in callers:
                self.to_reconnect[caller, slot.part] = None


def _cause_of(slot: Slot[Any], error: Exception) -> str:
    """What happened to a part, as the rest of a sentence that begins with its name."""
    # Inline, a new attempt changes the incarnation of a slot, and not the name of its handle.
    if isinstance(error, RemoteDiedError) and error.part.startswith(f"{slot.part}-"):
        return f"died: {' '.join(error.reason.split())}"
    line = one_line(error)
    if isinstance(error, UnresponsiveError):
        return line.removeprefix(f"{slot.part} ")
    return f"failed: {line}"

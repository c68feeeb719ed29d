"""Shutdown: why and how a run stops, in bounded time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from common.errors import (
    CheckpointError,
    EnvironmentFailedError,
    RemoteDiedError,
    RunFailedError,
    one_line,
)
from common.handles import Future, Handle
from common.types import Array
from deploy.runs.checkpoint_writer import CheckpointJob
from deploy.runs.log import detail_of
from deploy.runs.statistics import Counters
from deploy.supervisor.context import MAX_RESTARTS_WITHOUT_PROGRESS, Context
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot

MAX_SAVES = 3
"""Tries of the last checkpoint, if parts are lost while it is written."""


class Steps(Protocol):
    """The steps of the loop that a stop needs, too."""

    def settle(self, ready: Iterable[Future[Any]], restart_actors: bool) -> None:
        """Take in the results of calls that are over."""
        ...

    def tend(self, now: float, env_workers: list[Slot[Any]]) -> None:
        """Restart core parts, and these parts with environments, that are dead or unresponsive."""
        ...

    def report_if_due(self) -> None:
        """Report at the usual interval."""
        ...

    def check_stall(self, now: float) -> None:
        """Fail if nothing happens for too long."""
        ...

    def begin_evaluation(self) -> None:
        """Evaluate the newest weights."""
        ...

    def needs_reconnection(self, slot: Slot[Any]) -> bool:
        """Whether a caller has not received the newest handle of the slot's part yet."""
        ...

    def settle_checkpoint(self, timeout_s: float) -> bool:
        """Take in the checkpoint in flight; whether none is in flight any more."""
        ...


class Saver(Protocol):
    """Writes the last checkpoint; see `Checkpoints`."""

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is being written."""
        ...

    @property
    def up_to_date(self) -> bool:
        """Whether the newest checkpoint holds all work."""
        ...

    def names(self) -> list[str]:
        """Names of the checkpoints in the storage."""
        ...

    def end_by(self, deadline_s: float) -> None:
        """Wait for nothing after that time."""
        ...

    def begin(self) -> None:
        """Begin a checkpoint."""
        ...

    def take(self, timeout_s: float) -> CheckpointJob | None:
        """The checkpoint in flight when it is over."""
        ...

    def saved_tensors(self, timeout_s: float) -> dict[str, Array]:
        """The learner's tensors in the newest checkpoint."""
        ...


class Shutdown:
    """Stops a run: finishes calls in flight, evaluates the last weights, writes a checkpoint."""

    def __init__(self, context: Context, fleet: Fleet, steps: Steps, saver: Saver) -> None:
        """Nothing asks for a stop.

        Args:
            context: of the run.
            fleet: of the run.
            steps: of the loop.
            saver: of checkpoints.
        """
        self._context = context
        self._fleet = fleet
        self._steps = steps
        self._saver = saver
        self._requested: str | None = None
        self._requested_s = math.inf

    # --- why --------------------------------------------------------------------------------

    def request(self, reason: str) -> None:
        """Ask for a clean stop; safe to call from a signal handler. The first reason counts."""
        if self._requested is None:
            self._requested, self._requested_s = reason, time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._requested is not None

    def reason(self) -> str | None:
        """The stop condition that is true; None: the run continues."""
        counters, records = self._context.counters, self._context.records
        if self._requested is not None:
            return self._requested
        return self._context.config.stop.reached(
            score=records.score,
            learner_steps=counters.learner_steps,
            env_steps=counters.env_steps,
            wall_s=records.wall_s,
        )

    @property
    def _urgent(self) -> bool:
        """Whether a signal, or the clock, asks for the end."""
        wall_s = self._context.config.stop.wall_s
        out_of_time = wall_s is not None and self._context.records.wall_s >= wall_s
        return self.requested or out_of_time

    @property
    def _drain_s(self) -> float:
        timeouts = self._context.timeouts
        return timeouts.signal_drain_s if self.requested else timeouts.drain_s

    def _left_of(self, limit_s: float) -> float:
        """The part of a time limit that is left; after a signal, all waits share one limit."""
        end_s = self._requested_s + self._context.timeouts.signal_s
        return max(0.0, min(limit_s, end_s - time.monotonic()))

    # --- calls in flight --------------------------------------------------------------------

    def finish(self, reason: str) -> None:
        """Finish the calls in flight; evaluate the last weights if a count ended the run."""
        evaluates = reason in ("learner_steps", "env_steps") and (
            self._context.config.evaluation.every_learner_steps is not None
        )
        self._settle_all(evaluation=evaluates)
        records, counters = self._context.records, self._context.counters
        # Parts that this needs may be lost; the number of tries is bounded.
        for _ in range(1 + MAX_RESTARTS_WITHOUT_PROGRESS):
            evaluated = records.evaluated_steps >= counters.learner_steps
            if not evaluates or self._urgent or evaluated or not self._publish():
                return
            self._steps.begin_evaluation()
            self._settle_all(evaluation=True)

    def _settle_all(self, evaluation: bool) -> None:
        """Wait for the learner, for actors up to `drain_s`, and for the evaluator if told to.

        Actors are not restarted any more; parts that the learner or the evaluation depends on are.
        A signal, or the end of `stop.wall_s`, cancels the evaluation.
        """
        fleet, begin = self._fleet, time.monotonic()
        while True:
            deadline = begin + self._drain_s
            calls: list[Future[Any]] = []
            if fleet.learner.call is not None:
                calls.append(fleet.learner.call)
            if time.monotonic() < deadline:
                calls += [slot.call for slot in fleet.all_actors if slot.call is not None]
            needed: list[Slot[Any]] = []
            evaluator = fleet.evaluator
            if evaluation and not self._urgent and evaluator is not None and evaluator.call:
                calls.append(evaluator.call)
                needed.append(evaluator)
            if not calls:
                break
            ready = self._context.runtime.wait(calls, self._context.timeouts.wait_s)
            self._steps.settle(ready, restart_actors=False)
            if fleet.learner.call is not None or needed:
                self._steps.tend(time.monotonic(), needed)
            self._steps.report_if_due()
            if self.requested and time.monotonic() > deadline:
                break  # the learner as well: its last checkpoint must do
            if fleet.learner.call is not None:  # actors have a deadline, an evaluation may be long
                self._steps.check_stall(time.monotonic())
        for slot in fleet.actors:
            if slot.call is not None:
                text = f"{slot.part} did not finish its call within {self._drain_s:g} s"
                self._context.notify(text, logging.WARNING)

    def _publish(self) -> bool:
        """Have the learner publish its weights; whether a weight store that lives took them."""
        store, learner = self._fleet.weight_store, self._fleet.learner
        store.suspect = True  # no report of the learner's will tell any more
        asked: tuple[Handle, Future[None]] | None = None

        def published() -> bool:
            nonlocal asked
            self._steps.tend(time.monotonic(), [])
            reachable = store.ready and not store.suspect and not learner.awaiting_restore
            if not reachable or self._steps.needs_reconnection(store):
                asked = None
                return False
            if asked is None or asked[0] is not learner.handle:
                asked = learner.handle, learner.client.publish()
            if self._context.wait_for([asked[1]], self._context.timeouts.wait_s):
                return False
            try:
                asked[1].result()
            except RemoteDiedError:
                learner.suspect, asked = True, None
                return False
            return True

        in_time = self._context.poll_until(
            lambda: self._urgent or published(), self._context.timeouts.save_s
        )
        return in_time and not self._urgent

    def close_parts(self) -> None:
        """Close environments, as far as they do so in time."""
        closing: list[Future[Any]] = []
        for slot in self._fleet.env_workers:
            if slot.call is None:
                with suppress(EnvironmentFailedError):  # inline; the run is over in any case
                    closing.append(slot.client.close())
        self._context.wait_for(closing, self._context.timeouts.close_s)

    # --- the last checkpoint ----------------------------------------------------------------

    def save(self) -> dict[str, Array]:
        """Write the last checkpoint, if there is work since the one before; the learner's tensors.

        Raises:
            RunFailedError: it was not written in time.
            OSError: it cannot be written.
        """
        saver, save_s = self._saver, self._context.timeouts.save_s
        if self.requested:  # the signal's deadline holds for all waits together
            saver.end_by(time.monotonic() + self._left_of(save_s))
        if not self._steps.settle_checkpoint(self._left_of(save_s)):
            raise self._not_saved_in_time()
        for tries_left in reversed(range(MAX_SAVES)):
            if saver.up_to_date:
                break
            saver.begin()
            job = saver.take(self._left_of(save_s))
            if job is not None and job.error is None and job.tensors is not None:
                return job.tensors
            if job is None or job.error is None:
                raise self._not_saved_in_time()
            # CheckpointError: of a shard that could not be restored.
            if not isinstance(job.error, (RemoteDiedError, CheckpointError)) or not tries_left:
                raise job.error
            self._await_saved_parts()
        return saver.saved_tensors(self._left_of(self._context.timeouts.state_s))

    def _not_saved_in_time(self) -> RunFailedError:
        limit_s = self._context.timeouts.save_s
        return RunFailedError(f"the last checkpoint was not written within {limit_s:g} s")

    def _await_saved_parts(self) -> None:
        """Restart lost parts that the last checkpoint needs, and wait until they are ready."""
        wanted: list[Slot[Any]] = [*self._fleet.shards, self._fleet.learner]
        for slot in wanted:
            slot.suspect = True
        time.sleep(self._context.timeouts.poll_s)

        def ready() -> bool:
            self._steps.tend(time.monotonic(), [])
            return all(slot.ready and not slot.suspect for slot in wanted)

        self._context.poll_until(ready, self._left_of(self._context.timeouts.save_s))

    def save_after_failure(self) -> None:
        """Write a checkpoint of a run that failed, as far as that is possible; never raises."""
        with suppress(Exception):  # the run's own error matters
            saver, limit_s = self._saver, self._context.timeouts.failed_save_s
            if saver.take(self._left_of(limit_s)) is None and saver.in_flight:
                self._context.notify(
                    f"the checkpoint in progress was not written within {limit_s:g} s: not saved",
                    logging.WARNING,
                )
                return
            if saver.up_to_date or self._context.done == Counters():
                return  # all work is saved, or there is none
            saver.begin()
            job = saver.take(self._left_of(limit_s))
            if job is None:
                text = f"learner did not return its state within {limit_s:g} s: not saved"
                self._context.notify(text, logging.WARNING)
            elif job.error is not None:
                text = f"not saved: {one_line(job.error)}"
                self._context.notify(text, logging.WARNING, detail_of(job.error))

    def resume_hint(self) -> str:
        """The command that resumes the run, for an error's message."""
        folder = self._context.folder
        address = folder.ran_on.address if folder.ran_on is not None else None
        where = f" --address {address}" if address is not None else ""
        command = f"raydqn resume {folder.path}{where}"
        try:
            names = self._names()
        except TimeoutError:
            return f"to continue when the disk responds: {command}"
        except OSError as error:  # the run's own error matters
            return f"its checkpoints cannot be read ({error})"
        if not names:
            return "there is no checkpoint yet"
        return f"to continue from the last checkpoint: {command}"

    def _names(self) -> list[str]:
        """Names of the checkpoints; a run folder that holds them is not waited for without end."""
        context = self._context
        if context.config.checkpoint.storage is not None:
            return self._saver.names()
        return context.folder.disk.call(self._saver.names, context.timeouts.disk_s)

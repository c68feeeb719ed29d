"""Dispatch: hands out work to actors and learner, and takes in their reports.

Every actor has at most one `collect` call in flight. The rate limiter is asked before work is
handed out, so that nothing blocks inside a shard.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from actors.client import ActorClient
from common.errors import CheckpointError, DivergedError, RemoteDiedError
from common.handles import Future
from common.storage import write_atomically
from common.text import counted
from common.types import ActorReport, LearnerReport
from deploy.runs.metrics_file import MIN_RATE_S
from deploy.supervisor.context import TRAIN_CALLS_IN_FLIGHT, Context
from deploy.supervisor.events import ActorDrained, CallFailed, Event, LearnerReported, Unreachable
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot


@dataclass(frozen=True, slots=True)
class TrainCall:
    """A `train` call in flight, of `steps` learner steps."""

    steps: int
    call: Future[LearnerReport]


class Dispatch:
    """Calls in flight of actors and learner.

    Attributes:
        training: `train` calls in flight, in their order; the first is the learner slot's call.
        starved: the learner found no shard to sample from and waits for a reconnection.
    """

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """A dispatch without calls in flight."""
        self._context = context
        self._fleet = fleet
        self.training: deque[TrainCall] = deque()
        self.starved = False

    # --- work -------------------------------------------------------------------------------

    def hand_out(self) -> bool:
        """Give work to actors and learner, as far as the limiter allows; whether one got some."""
        acting = self._hand_out_acting()
        return self._hand_out_training() or acting

    def _hand_out_acting(self) -> bool:
        context, fleet = self._context, self._fleet
        config, amount = context.config, context.config.insert_quantum
        handed_out = False
        # Each idle actor is looked at once: inline, a call is over before the next is made.
        for _ in range(len(fleet.idle)):
            if not context.limiter.can_insert(amount):
                break
            slot = fleet.idle.popleft()
            if context.runtime.autoscaling and not slot.ready:
                fleet.idle.append(slot)  # pending placement: its work must not block others'
                continue
            context.limiter.begin_insert(amount)
            slot.begin(ActorClient.collect, config.actors.collect_steps, context.counters.env_steps)
            handed_out = True
        return handed_out

    def _hand_out_training(self) -> bool:
        config, limiter = self._context.config, self._context.limiter
        learner = self._fleet.learner
        handed_out = False
        # A single lost shard does not stop the learner: it samples from the others.
        held_up = learner.awaiting_restore or self.starved
        while len(self.training) < TRAIN_CALLS_IN_FLIGHT and not held_up:
            steps = min(config.learner.train_steps, limiter.sampleable(config.learner.batch_size))
            if config.stop.learner_steps is not None:
                in_flight = sum(training.steps for training in self.training)
                done = self._context.counters.learner_steps + in_flight
                steps = min(steps, config.stop.learner_steps - done)
            if steps < 1:
                break
            limiter.begin_sample(steps * config.learner.batch_size)
            if not self.training:
                learner.called_s = time.monotonic()
            self.training.append(TrainCall(steps, learner.client.train(steps)))
            learner.call = self.training[0].call
            handed_out = True
        return handed_out

    def calls(self) -> list[Future[Any]]:
        """The calls in flight to wait for, those of removed actors included."""
        actors = self._fleet.all_actors
        calls: list[Future[Any]] = [slot.call for slot in actors if slot.call is not None]
        if self._context.runtime.autoscaling:  # an actor that gets ready gets work at once
            calls += [slot.ping for slot in actors if slot.ping is not None and not slot.ready]
        if self.training:
            calls.append(self.training[0].call)
        return calls

    # --- results ----------------------------------------------------------------------------

    def settle(self, done: set[int], restart_actors: bool) -> Iterator[Event]:
        """Take in the results of calls that are over.

        Args:
            done: ids of their futures.
            restart_actors: whether the failure of an actor is an event.
        """
        for slot in list(self._fleet.actors):
            if slot.call is not None and id(slot.call) in done:
                yield from self._settle_actor(slot, restart_actors)
        for slot in list(self._fleet.draining):
            if slot.call is not None and id(slot.call) in done:
                yield from self._settle_draining(slot)
        while self.training and (id(self.training[0].call) in done or self.training[0].call.done()):
            yield from self._settle_learner()

    def _settle_actor(self, slot: Slot[ActorClient], restart: bool) -> Iterator[Event]:
        outcome = self._outcome(slot)
        self._fleet.idle.append(slot)
        if isinstance(outcome, Exception):
            self._context.limiter.end_insert(self._context.config.insert_quantum, 0)
            if restart and _is_own(slot, outcome):
                yield CallFailed(slot, outcome)
        else:
            yield from self._take_report(slot, outcome)

    def _settle_draining(self, slot: Slot[ActorClient]) -> Iterator[Event]:
        outcome = self._outcome(slot)
        if isinstance(outcome, Exception):
            self._context.limiter.end_insert(self._context.config.insert_quantum, 0)
        else:
            yield from self._take_report(slot, outcome)
        yield ActorDrained(slot, failed=isinstance(outcome, Exception))

    def _outcome(self, slot: Slot[ActorClient]) -> ActorReport | Exception:
        outcome: ActorReport | Exception = slot.take_outcome()
        if isinstance(outcome, Exception) and self._context.is_mistake(outcome):
            raise outcome
        return outcome

    def _take_report(self, slot: Slot[ActorClient], report: ActorReport) -> Iterator[Event]:
        context, now = self._context, time.monotonic()
        context.limiter.end_insert(context.config.insert_quantum, report.transitions)
        if not slot.ready:
            slot.ready, slot.ready_s = True, now
        slot.consecutive_failures = 0
        since_s = slot.called_s if math.isnan(slot.reported_s) else slot.reported_s
        slot.rate = report.env_steps / max(now - since_s, MIN_RATE_S)
        slot.reported_s = now
        context.records.actor(report)
        if report.unreachable:
            yield Unreachable(slot, report.unreachable)

    def _settle_learner(self) -> Iterator[Event]:
        context, training, learner = self._context, self.training[0], self._fleet.learner
        report: LearnerReport | None = None
        try:
            report = training.call.result()
        except Exception as error:  # the end of the process, or any error of its device
            if context.is_mistake(error):
                raise
            if _is_own(learner, error):
                yield CallFailed(learner, error)  # the loop then calls `abandon_training`
                return
        self.training.popleft()
        learner.call = self.training[0].call if self.training else None
        learner.called_s = time.monotonic()  # the next call could not begin before
        reserved = training.steps * context.config.learner.batch_size
        context.limiter.end_sample(reserved, report.samples if report else 0)
        if report is None:
            return
        yield LearnerReported(report)
        context.records.learner(report)
        if report.unreachable:
            yield Unreachable(learner, report.unreachable)
        if report.diverged:
            self._fail_diverged(report)
        if report.steps < training.steps:
            if report.unreachable:
                self.starved = True
            else:
                context.limiter.reset(0)  # shards were restored empty

    def _fail_diverged(self, report: LearnerReport) -> None:
        folder, limit_s = self._context.folder, self._context.timeouts.disk_s
        path = folder.path / "diverged-batch.rdqn"
        assert report.batch is not None
        folder.disk.call(partial(write_atomically, path, report.batch.tobytes()), limit_s)
        steps = counted(report.learner_steps, "learner step")
        raise DivergedError(
            f"loss or gradient is not finite after {steps}; the batch is in {path}; it was not "
            "trained on. Lower learner.learning_rate, or look at the rewards"
        )

    # --- restarts ---------------------------------------------------------------------------

    def abandon_training(self) -> None:
        """The learner is lost, and with it the results of its calls in flight."""
        batch_size = self._context.config.learner.batch_size
        for training in self.training:
            self._context.limiter.end_sample(training.steps * batch_size, 0)
        self.training.clear()
        self.starved = False

    def actor_restarted(self, slot: Slot[ActorClient]) -> None:
        """Free what an actor had reserved whose call was in flight when it was restarted."""
        if slot in self._fleet.actors and slot not in self._fleet.idle:
            self._context.limiter.end_insert(self._context.config.insert_quantum, 0)
            self._fleet.idle.append(slot)

    def reconnected(self, slot: Slot[Any]) -> None:
        """The learner was given the handle of a shard, or of the weight store."""
        if slot is self._fleet.learner:
            self.starved = False


def _is_own(slot: Slot[Any], error: Exception) -> bool:
    """Whether the failure of a part's call is the part's own, not that of a part it called."""
    # Every caller of a shard that cannot be restored gets the shard's error.
    of_another = isinstance(error, RemoteDiedError) and error.part != slot.name
    return not of_another and not isinstance(error, CheckpointError)

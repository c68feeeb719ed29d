"""Evaluation: when the weights are evaluated, one slice after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from actors.client import EvaluatorClient
from common.errors import CheckpointError, EnvironmentFailedError, RemoteDiedError
from common.handles import Future
from common.parts import EVALUATOR
from common.types import EvaluationReport
from deploy.supervisor.context import Context
from deploy.supervisor.events import BestScore, CallFailed, Event
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot

NEVER = (1 << 53) - 1
"""Learner steps that no run takes."""


class Evaluation:
    """Starts evaluations, and takes in their reports.

    Attributes:
        next_steps: learner steps at which the next evaluation is due.
    """

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """The first evaluation is due after `evaluation.every_learner_steps`."""
        self._context = context
        self._fleet = fleet
        self.next_steps = self._every

    @property
    def _every(self) -> int:
        return self._context.config.evaluation.every_learner_steps or NEVER

    @property
    def running(self) -> bool:
        """Whether an evaluation is in progress."""
        return self._fleet.evaluator is not None and self._fleet.evaluator.call is not None

    @property
    def pending(self) -> bool:
        """Whether an evaluation is in progress, or due."""
        return self.running or self._context.counters.learner_steps >= self.next_steps

    def begin_if_due(self) -> bool:
        """Begin an evaluation if one is due and none is in progress; whether it began."""
        if self.running or not self.pending:
            return False
        self.begin()
        return True

    def begin(self) -> None:
        """Begin an evaluation of the newest weights."""
        program = self._context.program
        if self._fleet.evaluator is None:  # not before: its process would slow the run's start
            incarnation, spawn = program.incarnation, program.spawn_evaluator
            handle = spawn(incarnation)
            self._fleet.evaluator = Slot(EVALUATOR, EvaluatorClient, spawn, handle, incarnation)
        self._play(self._fleet.evaluator)

    def _play(self, slot: Slot[EvaluatorClient]) -> None:
        slot.begin(EvaluatorClient.evaluate, self._context.timeouts.evaluation_slice_s)

    def calls(self) -> list[Future[EvaluationReport | None]]:
        """The call in flight, if there is one."""
        slot = self._fleet.evaluator
        return [slot.call] if slot is not None and slot.call is not None else []

    def settle(self, done: set[int]) -> Iterator[Event]:
        """Take in the result of the call in flight.

        Args:
            done: ids of futures that are done.
        """
        slot = self._fleet.evaluator
        if slot is None or slot.call is None or id(slot.call) not in done:
            return
        outcome: EvaluationReport | Exception | None = slot.take_outcome()
        if isinstance(outcome, Exception):
            if self._context.is_mistake(outcome):
                raise outcome
            of_another = isinstance(outcome, RemoteDiedError) and outcome.part != slot.name
            if not of_another and not isinstance(outcome, CheckpointError):
                yield CallFailed(slot, outcome)
        elif outcome is None:  # episodes are left to play
            self._play(slot)
        elif outcome.weights is not None:
            yield from self._take_report(slot, outcome)
        # Without weights nothing was published, because the weight store was lost: begun again.

    def _take_report(
        self, slot: Slot[EvaluatorClient], report: EvaluationReport
    ) -> Iterator[Event]:
        context = self._context
        slot.consecutive_failures = 0
        every = self._every
        newest_due = context.counters.learner_steps // every * every
        if newest_due <= report.learner_steps:  # these very weights were evaluated
            newest_due += every
        self.next_steps = max(self.next_steps + every, newest_due)
        if context.records.evaluation(report):
            yield BestScore(report)

    def restore(self, next_steps: int | None) -> None:
        """Continue from a checkpoint: an evaluation that was due then, or in progress, is due.

        Args:
            next_steps: `next_steps` in the checkpoint; None: it does not tell.
        """
        self.next_steps = self._next_multiple() if next_steps is None else next_steps
        self.reschedule()

    def reschedule(self) -> None:
        """The learner may have fallen back: the next evaluation is due after its next interval.

        One that is due already stays due.
        """
        if self._every == NEVER:  # the configuration may have changed
            self.next_steps = NEVER
        self.next_steps = min(self.next_steps, self._next_multiple())

    def _next_multiple(self) -> int:
        every = self._every
        return min(NEVER, (self._context.counters.learner_steps // every + 1) * every)

    def begin_attempt(self) -> None:
        """Inline: the next evaluation starts an evaluator of its own."""
        if self._fleet.evaluator is not None:
            with suppress(EnvironmentFailedError):
                self._fleet.evaluator.client.close()
            self._fleet.evaluator = None

"""Checkpoints: when one is written, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from common import wire
from common.config_operation import CheckpointConfig
from common.errors import CheckpointError, EnvironmentFailedError, RemoteDiedError, RunFailedError
from common.text import counted
from common.types import Array
from deploy.runs.checkpoint_writer import CheckpointJob, CheckpointWriter
from deploy.runs.log import detail_of
from deploy.runs.statistics import Counters
from deploy.supervisor.context import Context
from deploy.supervisor.events import AttemptBegun, CheckpointWritten, Event
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot


class Checkpoints:
    """Writes checkpoints: inline while the run waits, on Ray while it continues."""

    def __init__(self, context: Context, fleet: Fleet, next_evaluation: Callable[[], int]) -> None:
        """Nothing is written yet.

        Args:
            context: of the run.
            fleet: of the run.
            next_evaluation: learner steps at which the next evaluation is due.
        """
        self._context = context
        self._fleet = fleet
        self._next_evaluation = next_evaluation
        self._writer = CheckpointWriter(
            context.folder.checkpoints,
            context.config.checkpoint,
            background=context.runtime.parallel,
        )
        self._saved: Counters | None = None  # the work that the newest checkpoint holds
        self._resumed_from = ""  # until another one is written

    # --- state ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is being written, or its outcome was not taken yet."""
        return self._writer.busy

    @property
    def up_to_date(self) -> bool:
        """Whether the newest checkpoint holds all work of the run."""
        return self._saved == self._context.done

    def names(self) -> list[str]:
        """Names of the checkpoints in the storage, oldest first."""
        return self._writer.store.names()

    def resumed_from(self, name: str) -> None:
        """The run was resumed from this checkpoint, which holds all its work."""
        self._resumed_from = name
        self._saved = self._context.done
        self.learner_restored()

    def learner_restored(self) -> None:
        """Count learner steps until the next checkpoint from where the learner stands now."""
        self._writer.tried_steps = self._context.counters.learner_steps

    def change(self, config: CheckpointConfig) -> None:
        """Use another configuration; the storage stays the same."""
        self._writer.change(config)

    def end_by(self, deadline_s: float) -> None:
        """Wait for nothing after `deadline_s` (`time.monotonic()`)."""
        self._writer.end_by(deadline_s)

    # --- during the run -----------------------------------------------------------------------

    def write_if_due(self, now: float, evaluating: bool) -> Iterator[Event]:
        """Take in the outcome of a checkpoint in flight, and begin one if it is due.

        Args:
            now: `time.monotonic()`.
            evaluating: whether an evaluation is in progress, or due.
        """
        yield from self.settle()
        context, inline = self._context, not self._context.runtime.parallel
        if self._stops_now() and not evaluating:
            return
        # Inline, an evaluation in progress could not be saved, and lost parts come first.
        if inline and (evaluating or not self._all_alive()):
            return
        if not inline and not all(slot.ready for slot in self._saved_parts):
            return
        counters = context.counters
        if self._writer.due(now, counters.learner_steps, counters.transitions):
            exact = inline and context.config.checkpoint.exact
            self.begin(end_episodes=exact)
            if inline:
                yield from self.settle()
            if exact:
                yield self._begin_attempt()

    def settle(self, timeout_s: float = 0.0) -> Iterator[Event]:
        """Take in the outcome of the checkpoint in flight, if it is over within `timeout_s`."""
        if self._writer.busy:
            job = self._writer.take(timeout_s)
            if job is not None:
                yield from self._take_outcome(job)

    def _stops_now(self) -> bool:
        """Whether a stop condition is true: the last checkpoint follows, and holds more."""
        records, counters = self._context.records, self._context.counters
        reached = self._context.config.stop.reached(
            score=records.score,
            learner_steps=counters.learner_steps,
            env_steps=counters.env_steps,
            wall_s=records.wall_s,
        )
        return reached is not None

    @property
    def _saved_parts(self) -> list[Slot[Any]]:
        return [*self._fleet.shards, self._fleet.learner]

    def _all_alive(self) -> bool:
        ping = self._context.runtime.ping
        try:
            for slot in [*self._fleet.core_parts, *self._fleet.actors]:
                ping(slot.handle).result()
        except RemoteDiedError:
            return False
        return True

    def begin(self, end_episodes: bool = True) -> None:
        """Begin a checkpoint; inline it is written when this returns.

        Args:
            end_episodes: inline, have actors store what they hold, and end: the last checkpoint of
                an attempt. Otherwise they continue, and the steps that they hold are not saved.
        """
        context, fleet = self._context, self._fleet
        if end_episodes and not context.runtime.parallel:
            self._end_episodes()
        counters = context.counters
        counters.wall_s = context.records.wall_s
        state = {
            "counters": asdict(counters),
            **context.records.state(),
            "next_evaluation_steps": self._next_evaluation(),
            "limiter": context.limiter.state(),
            "incarnation": fleet.max_incarnation + 1,
            "config": context.config.model_dump(mode="json"),
        }
        if context.folder.ran_on is not None:
            state["ran_on"] = context.folder.ran_on.model_dump()
        replay = context.config.checkpoint.replay
        shards = [slot.handle for slot in fleet.shards] if replay else []
        job = CheckpointJob(state, fleet.learner.handle, shards, progress=context.done)
        self._writer.begin(job, counters.learner_steps)

    def _end_episodes(self) -> None:
        """Inline: have every actor store its transitions, because environments cannot be saved."""
        for slot in self._fleet.actors:
            try:
                stored = slot.client.close().result()
            except (RemoteDiedError, EnvironmentFailedError):
                continue  # the actor is restarted in any case
            self._context.limiter.end_insert(0, stored)
            self._context.counters.transitions += stored

    def _take_outcome(self, job: CheckpointJob) -> Iterator[Event]:
        """A checkpoint that cannot be written does not end the run: the one before it is sound.

        Raises:
            RunFailedError: `checkpoint.on_failure` is `stop`.
        """
        context, error = self._context, job.error
        if error is None:
            self._note_saved(job)
            yield CheckpointWritten()
            context.records.checkpoint(job.wall_s)
            if job.remark is not None:
                context.notify(job.remark, logging.WARNING)
            return
        # CheckpointError: of a shard that could not be restored from another checkpoint.
        if not isinstance(error, (OSError, RemoteDiedError, CheckpointError)):
            raise error
        context.records.checkpoint_failed()
        message = f"checkpoint could not be written: {error}"
        if isinstance(error, OSError) and context.config.checkpoint.on_failure == "stop":
            raise RunFailedError(message) from error
        context.notify(
            f"{message}; the next one is due as usual", logging.WARNING, detail_of(error)
        )

    def _note_saved(self, job: CheckpointJob) -> None:
        self._saved, self._resumed_from = job.progress, ""
        self._context.notify(
            f"checkpoint {job.name} written after {counted(job.learner_steps, 'learner step')}, in "
            f"{job.wall_s:.1f} s",
            logging.DEBUG,
        )

    def _begin_attempt(self) -> AttemptBegun:
        """`checkpoint.exact`: continue as a run that is resumed from the checkpoint just written.

        So a run that was killed and resumed is, bit for bit, one that was not.
        """
        context, fleet = self._context, self._fleet
        incarnation = fleet.max_incarnation + 1
        context.program.incarnation = incarnation
        held = 0
        for slot in fleet.shards:
            slot.client.new_attempt(incarnation).result()
            slot.incarnation = incarnation
            held += slot.client.summary().result().size
        context.limiter.restore(context.limiter.state(), held)
        fleet.learner.client.new_attempt(incarnation).result()
        fleet.learner.incarnation = incarnation
        return AttemptBegun(incarnation)

    # --- at the end ---------------------------------------------------------------------------

    def take(self, timeout_s: float) -> CheckpointJob | None:
        """The checkpoint in flight, with its tensors or its error; None: not over by then.

        There is no `CheckpointWritten` about it: it tells that parts can be restored from a
        checkpoint, and at the end of a run no part is restored any more.
        """
        job = self._writer.take(timeout_s)
        if job is not None and job.error is None and job.tensors is not None:
            self._note_saved(job)
        return job

    def saved_tensors(self, timeout_s: float) -> dict[str, Array]:
        """The learner's tensors, which are saved already: its own, or the newest checkpoint's."""
        state = self._fleet.learner.client.state()
        if not self._context.wait_for([state], timeout_s):
            with suppress(RemoteDiedError):
                return wire.decode(state.result())[0]
        store = self._writer.store
        return store.load(self._resumed_from or store.names()[-1]).tensors["learner"]

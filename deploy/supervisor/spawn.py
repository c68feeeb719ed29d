"""Spawn: starts further incarnations of the core parts, from the newest sound checkpoint."""

from __future__ import annotations

import logging
import math
from typing import Protocol

from common.checkpoint import Checkpoint
from common.errors import CheckpointError, RunFailedError, UnreadableError
from common.handles import Handle
from common.parts import CONTROL_SERVICE, LEARNER, PartId, shard
from deploy.control.service import ControlService
from deploy.runs.checkpoint_schema import learner_state, parse_state, shard_restore
from deploy.runtime.names import service_name
from deploy.supervisor.context import TRAIN_CALLS_IN_FLIGHT, Context

EXTRA_VERSIONS = 1_000
"""More versions than a learner publishes outside its training: at its start, at reconnections."""


class Checkpoints(Protocol):
    """The checkpoints that parts are restored from; see `RestoreSource`."""

    expected: bool

    def newest(self, part: PartId) -> Checkpoint | None:
        """The newest one that the part can be restored from."""
        ...

    def mark_corrupt(self, part: PartId, error: CheckpointError) -> None:
        """Never restore the part again from the one that it was last restored from."""
        ...


class Spawner:
    """Starts core parts; the program's handles are replaced.

    Attributes:
        learner_steps: of the checkpoint that the learner was last restored from; 0: of none.
    """

    def __init__(self, context: Context, checkpoints: Checkpoints) -> None:
        """A spawner that restores parts from these checkpoints."""
        self._context = context
        self._checkpoints = checkpoints
        self.learner_steps = 0

    def control_service(self, incarnation: int) -> Handle:
        """Start the control service, under a public name of the run."""
        run = self._context.folder.path.name
        # One of an earlier attempt, or incarnation, has counted the totals of the first report.
        continued = incarnation > 0
        return self._context.runtime.spawn(
            ControlService,
            run,
            continued,
            part=CONTROL_SERVICE,
            incarnation=incarnation,
            public_name=service_name(run, incarnation),
        )

    def weight_store(self, incarnation: int) -> Handle:
        """Start the weight store, empty.

        Its versions are greater than any published one, of which the supervisor may not have heard:
        actors refuse weights of an older version.
        """
        program, learner = self._context.program, self._context.config.learner
        in_training = TRAIN_CALLS_IN_FLIGHT * math.ceil(learner.train_steps / learner.publish_steps)
        floor = self._context.records.version + in_training + EXTRA_VERSIONS
        program.weight_store = program.spawn_weight_store(floor, incarnation)
        return program.weight_store

    def shard(self, index: int, incarnation: int) -> Handle:
        """Start a shard with its transitions of the newest sound checkpoint.

        Raises:
            UnreadableError: the storage is unreadable.
        """
        program, part = self._context.program, shard(index)
        while True:
            checkpoint = self._checkpoints.newest(part)
            if checkpoint is None and self._checkpoints.expected:
                self._context.notify(
                    f"{part} starts empty: its part of every checkpoint is corrupt", logging.WARNING
                )
            count = len(program.shards)
            restore = shard_restore(checkpoint, index, count) if checkpoint else None
            try:
                program.shards[index] = program.spawn_shard(index, restore, incarnation)
            except UnreadableError:
                raise
            except CheckpointError as error:  # inline; on Ray the first ping raises it
                self._checkpoints.mark_corrupt(part, error)
            else:
                return program.shards[index]

    def learner(self, incarnation: int) -> Handle:
        """Start the learner with its state in the newest sound checkpoint.

        Raises:
            UnreadableError: the storage is unreadable.
            RunFailedError: every checkpoint is corrupt. A learner without its state would lose
                them all: each new checkpoint replaces an old one.
        """
        program, checkpoint = self._context.program, self._checkpoints.newest(LEARNER)
        if checkpoint is None and self._checkpoints.expected:
            raise RunFailedError("learner cannot be restarted: every checkpoint is corrupt")
        state = learner_state(checkpoint) if checkpoint else None
        program.learner = program.spawn_learner(state, incarnation)
        self.learner_steps = parse_state(checkpoint).learner.learner_steps if checkpoint else 0
        return program.learner

"""Who exists and who talks to whom, on one page; the same on Ray and in one process.

             weights               weights
evaluator ◀────────── variables ◀────────── learner
                          │                  ▲   │
                  weights ▼           batches│   │priorities
                       actors ── chunks ──▶ shards
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.actor import Actor
from actors.evaluator import Evaluator
from common import parts
from common.checkpoint import Checkpoint
from common.config import Config
from common.handles import Handle
from common.networks import choose_device, make_network
from common.parts import PartId
from common.types import Array, EnvironmentSpec
from common.weights import WeightStore
from deploy.resources.memory import frame_capacity, shard_capacity, shard_frame_bytes
from deploy.runs.checkpoint_schema import learner_state, shard_restore
from deploy.runtime.api import Runtime
from learner.learner import Learner
from replay_server.codec import make_codec
from replay_server.server import ReplayServer
from replay_server.shard_restore import ShardRestore


@dataclass
class Program:
    """Handles to every part of a run, and how to make each of them."""

    config: Config
    spec: EnvironmentSpec
    runtime: Runtime
    incarnation: int  # of all parts at the start; parts that are replaced get the next
    frame_bytes: int | None  # that each shard may take; see `shard_frame_bytes`
    weight_store: Handle = field(init=False)
    shards: list[Handle] = field(default_factory=list)
    learner: Handle = field(init=False)
    actors: list[Handle] = field(default_factory=list)

    def spawn_weight_store(self, floor: int, incarnation: int) -> Handle:
        """Where weights are published, in versions above `floor`."""
        return self._spawn(WeightStore, floor, part=parts.WEIGHT_STORE, incarnation=incarnation)

    def spawn_shard(self, index: int, origin: ShardRestore | None, incarnation: int) -> Handle:
        """A shard; keys of one that it replaces are stale.

        Args:
            index: 0 … replay.shards−1.
            origin: what of a checkpoint it begins with.
            incarnation: of the shard.
        """
        config, spec = self.config, self.spec
        return self._spawn(
            ReplayServer,
            shard_capacity(config, spec),
            spec.frame,
            spec.stack,
            config.replay.alpha,
            frame_capacity(config, spec),
            config.seed,
            index,
            incarnation,
            config.replay.compression,
            self.frame_bytes,
            origin,
            part=parts.shard(index),
            incarnation=incarnation,
        )

    def spawn_learner(self, state: Array | None, incarnation: int) -> Handle:
        """A learner that goes on from a state of an earlier one, if there is one."""
        return self._spawn(
            Learner,
            self.config,
            self.spec,
            self.shards,
            self.weight_store,
            incarnation,
            state,
            part=parts.LEARNER,
            incarnation=incarnation,
        )

    def spawn_evaluator(self, incarnation: int) -> Handle:
        """An evaluator; one that replaces another plays other episodes."""
        return self._spawn(
            Evaluator,
            self.config,
            self.weight_store,
            incarnation,
            part=parts.EVALUATOR,
            incarnation=incarnation,
        )

    def spawn_actor(self, index: int, incarnation: int) -> Handle:
        """An actor; one that replaces another keeps its index and has the next incarnation."""
        return self._spawn(
            Actor,
            self.config,
            index,
            incarnation,
            self.shards,
            self.weight_store,
            part=parts.actor(index),
            incarnation=incarnation,
        )

    def _spawn(self, cls: type, *args: Any, part: PartId, incarnation: int) -> Handle:
        return self.runtime.spawn(cls, *args, part=part, incarnation=incarnation)


def check(config: Config, spec: EnvironmentSpec, here: bool) -> None:
    """Try what else can be wrong for a user, beside the environment itself.

    Args:
        config: of the run.
        spec: of its environment.
        here: the learner will live on this machine.

    Raises:
        UserError: network, device or compression do not exist, or do not fit the environment.
    """
    make_codec(config.replay.compression, spec.frame)
    make_network(spec, config.network)
    if here:
        choose_device(config.learner.device)


def build(
    config: Config,
    spec: EnvironmentSpec,
    runtime: Runtime,
    incarnation: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Program:
    """Make all parts. On Ray they start side by side, in processes of their own.

    Args:
        config: of the run.
        spec: of its environment.
        runtime: where the parts live.
        incarnation: greater for every life of a run: random streams do not repeat.
        checkpoint: what learner and shards go on from.
    """
    # Once: what is free changes as shards start.
    frame_bytes = runtime.run_on(parts.shard(0), shard_frame_bytes, config, spec)
    program = Program(config, spec, runtime, incarnation, frame_bytes)
    program.weight_store = program.spawn_weight_store(-1, incarnation)
    shards = config.replay.shards
    for index in range(shards):
        origin = shard_restore(checkpoint, index, shards) if checkpoint else None
        program.shards.append(program.spawn_shard(index, origin, incarnation))
    state = learner_state(checkpoint) if checkpoint else None
    program.learner = program.spawn_learner(state, incarnation)
    program.actors = [
        program.spawn_actor(index, incarnation) for index in range(config.actors.count)
    ]
    return program

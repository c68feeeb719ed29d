"""The parts of a run and the data between them, on one page; the same on Ray and in one process.

             weights                 weights
evaluator ◀────────── weight store ◀────────── learner
                           │                    ▲   │
                   weights ▼             batches│   │priorities
                        actors ─── chunks ───▶ shards
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.actor import Actor
from actors.evaluator import Evaluator
from common.checkpoint import Checkpoint
from common.config import Config
from common.handles import Handle
from common.item import item_of
from common.networks import choose_device, make_network
from common.parts import EVALUATOR, LEARNER, WEIGHT_STORE, PartId, actor, shard
from common.types import Array, EnvironmentSpec
from common.weights import WeightStore
from deploy.resources.memory import frame_capacity, shard_capacity, shard_frame_bytes
from deploy.runs.checkpoint_schema import learner_state, shard_restore
from deploy.runtime.interface import Runtime
from learner.learner import Learner
from replay_server.codec import make_codec
from replay_server.server import ReplayServer
from replay_server.shard_restore import ShardRestore


@dataclass
class Program:
    """Handles of all parts of a run, and a method to start each of them."""

    config: Config
    spec: EnvironmentSpec
    runtime: Runtime
    incarnation: int  # of all parts at the start; a part that is restarted gets the next
    frame_bytes: int | None  # limit of each shard; see `shard_frame_bytes`
    initial: Array | None = None  # weights of a learner that begins without a state
    weight_store: Handle = field(init=False)
    shards: list[Handle] = field(default_factory=list)
    learner: Handle = field(init=False)
    actors: list[Handle] = field(default_factory=list)

    def spawn_weight_store(self, floor: int, incarnation: int) -> Handle:
        """Start a weight store for versions above `floor`."""
        return self._spawn(WEIGHT_STORE, incarnation, WeightStore, floor)

    def spawn_shard(self, index: int, restore: ShardRestore | None, incarnation: int) -> Handle:
        """Start a shard; keys of its earlier incarnations are stale.

        Args:
            index: 0 … replay.shards−1.
            restore: its part of a checkpoint; None: it starts empty.
            incarnation: of the shard.
        """
        config, spec = self.config, self.spec
        return self._spawn(
            shard(index),
            incarnation,
            ReplayServer,
            shard_capacity(config, spec),
            spec.frame,
            item_of(spec),
            config.replay.alpha,
            frame_capacity(config, spec),
            config.seed,
            index,
            incarnation,
            config.replay.compression,
            self.frame_bytes,
            restore,
        )

    def spawn_learner(self, state: Array | None, incarnation: int) -> Handle:
        """Start a learner, from the state of an earlier one if there is one."""
        return self._spawn(
            LEARNER,
            incarnation,
            Learner,
            self.config,
            self.spec,
            self.shards,
            self.weight_store,
            incarnation,
            state,
            self.initial,
        )

    def spawn_evaluator(self, incarnation: int) -> Handle:
        """Start an evaluator; each incarnation plays other episodes."""
        return self._spawn(
            EVALUATOR, incarnation, Evaluator, self.config, self.weight_store, incarnation
        )

    def spawn_actor(self, index: int, incarnation: int) -> Handle:
        """Start an actor; a restarted one has the same index and the next incarnation."""
        return self._spawn(
            actor(index),
            incarnation,
            Actor,
            self.config,
            index,
            incarnation,
            self.shards,
            self.weight_store,
        )

    def _spawn(self, part: PartId, incarnation: int, cls: type, *args: Any) -> Handle:
        return self.runtime.spawn(cls, *args, part=part, incarnation=incarnation)


def check(config: Config, spec: EnvironmentSpec, here: bool) -> None:
    """Check the parts of a configuration that need torch, or the environment's spec.

    Args:
        config: of the run.
        spec: of its environment.
        here: the learner will run on this machine.

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
    initial: Array | None = None,
) -> Program:
    """Start all parts. On Ray they start side by side, in processes of their own.

    Args:
        config: of the run.
        spec: of its environment.
        runtime: of the parts.
        incarnation: greater for every attempt of a run, so that random streams do not repeat.
        checkpoint: that learner and shards are restored from.
        initial: weights (wire format) that the learner begins with; None: random ones.
    """
    # Once, before the first shard: free memory changes as shards start.
    frame_bytes = runtime.run_on(shard(0), shard_frame_bytes, config, spec)
    program = Program(config, spec, runtime, incarnation, frame_bytes, initial)
    program.weight_store = program.spawn_weight_store(-1, incarnation)
    shards = config.replay.shards
    for index in range(shards):
        restore = shard_restore(checkpoint, index, shards) if checkpoint else None
        program.shards.append(program.spawn_shard(index, restore, incarnation))
    state = learner_state(checkpoint) if checkpoint else None
    program.learner = program.spawn_learner(state, incarnation)
    program.actors = [
        program.spawn_actor(index, incarnation) for index in range(config.actors.count)
    ]
    return program

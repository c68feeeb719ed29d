"""Who exists and who talks to whom, on one page; the same on Ray and in one process.

             weights               weights
evaluator ◀────────── variables ◀────────── learner
                          │                  ▲   │
                  weights ▼           batches│   │priorities
                       actors ── chunks ──▶ shards
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.actor import Actor
from actors.evaluator import Evaluator
from common.config import Config
from common.handles import Handle
from common.networks import choose_device, make_network
from common.types import EnvironmentSpec
from common.variables import Variables
from deploy.remote import Runtime, part_name
from deploy.sizing import frame_capacity, shard_capacity, shard_frame_bytes
from learner.learner import Learner
from replay_server.codec import make_codec
from replay_server.server import ReplayServer


@dataclass
class Program:
    """Handles to every part of a run."""

    config: Config
    spec: EnvironmentSpec
    runtime: Runtime
    variables: Handle
    shards: list[Handle]
    learner: Handle
    incarnation: int  # of all parts at the start; parts that are replaced get the next
    actors: list[Handle] = field(default_factory=list)

    def spawn_evaluator(self, incarnation: int) -> Handle:
        """An evaluator; one that replaces another plays other episodes."""
        return self.runtime.spawn(
            Evaluator,
            self.config,
            self.variables,
            incarnation,
            name=part_name("evaluator", incarnation),
        )

    def spawn_actor(self, index: int, incarnation: int) -> Handle:
        """An actor; one that replaces another keeps its index and has the next incarnation."""
        return self.runtime.spawn(
            Actor,
            self.config,
            index,
            incarnation,
            self.shards,
            self.variables,
            name=part_name(f"actor-{index}", incarnation),
        )


def check(config: Config, spec: EnvironmentSpec) -> None:
    """Try what else can be wrong for a user, beside the environment itself.

    Raises:
        UserError: network, device or compression do not exist, or do not fit the environment.
    """
    make_codec(config.replay.compression, spec.frame)
    make_network(spec, config.network)
    choose_device(config.learner.device)


def build(config: Config, spec: EnvironmentSpec, runtime: Runtime, incarnation: int = 0) -> Program:
    """Make all parts. On Ray they start side by side, in processes of their own.

    Args:
        config: of the run.
        spec: of its environment.
        runtime: where the parts live.
        incarnation: greater for every life of a run: random streams do not repeat.
    """
    variables = runtime.spawn(Variables, name="variables")
    frame_bytes = shard_frame_bytes(config, spec)  # once: what is free changes as shards start
    shards = [
        runtime.spawn(
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
            frame_bytes,
            name=f"shard-{index}",
        )
        for index in range(config.replay.shards)
    ]
    device = choose_device(config.learner.device)
    learner = runtime.spawn(
        Learner,
        config,
        spec,
        shards,
        variables,
        incarnation,
        name="learner",
        # It sees what it asks for, counted from 0: with cuda:1 that must be two.
        gpus=(device.index or 0) + 1 if device.type == "cuda" else 0,
    )
    program = Program(config, spec, runtime, variables, shards, learner, incarnation)
    program.actors = [
        program.spawn_actor(index, incarnation) for index in range(config.actors.count)
    ]
    return program

"""Who exists and who talks to whom, on one page; the same on Ray and in one process.

                 weights               weights
    evaluator ◀────────── variables ◀────────── learner
                              │                  ▲   │
                      weights ▼           batches│   │priorities
                           actors ── chunks ──▶ shards
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from actors.actor import Actor
from actors.environments import environment_spec
from actors.evaluator import Evaluator
from common.config import Config
from common.handles import Handle
from common.networks import choose_device, make_network
from common.types import EnvironmentSpec
from common.variables import Variables
from deploy.remote import Runtime
from learner.learner import Learner
from replay_server.server import ReplayServer


@dataclass(slots=True)
class Program:
    """Handles to every part of a run."""

    config: Config
    spec: EnvironmentSpec
    runtime: Runtime
    variables: Handle
    shards: list[Handle]
    learner: Handle
    evaluator: Handle
    actors: list[Handle] = field(default_factory=list)

    def spawn_actor(self, index: int, incarnation: int) -> Handle:
        """An actor; one that replaces another keeps its index and has the next incarnation."""
        return self.runtime.spawn(
            Actor,
            self.config,
            index,
            incarnation,
            self.shards,
            self.variables,
            name=f"actor-{index}.{incarnation}",
        )


def check(config: Config) -> EnvironmentSpec:
    """The environment's spec, after everything that can be wrong for a user has been tried.

    Raises:
        UserError: environment, network or device do not exist or do not fit together.
    """
    spec = environment_spec(config.env)
    make_network(spec, config.network)
    choose_device(config.learner.device)
    return spec


def build(config: Config, spec: EnvironmentSpec, runtime: Runtime) -> Program:
    """Make all parts. On Ray they start side by side, in processes of their own."""
    variables = runtime.spawn(Variables, name="variables")
    capacity = math.ceil(config.replay.capacity / config.replay.shards)
    shards = [
        runtime.spawn(
            ReplayServer,
            capacity,
            spec.frame,
            spec.stack,
            config.replay.alpha,
            frame_capacity(config, spec),
            config.seed,
            index,
            name=f"shard-{index}",
        )
        for index in range(config.replay.shards)
    ]
    learner = runtime.spawn(Learner, config, spec, shards, variables, name="learner")
    evaluator = runtime.spawn(Evaluator, config, variables, name="evaluator")
    program = Program(config, spec, runtime, variables, shards, learner, evaluator)
    program.actors = [program.spawn_actor(index, 0) for index in range(config.actors.count)]
    return program


def frame_capacity(config: Config, spec: EnvironmentSpec) -> int:
    """Frames one shard has room for, so that they last as long as its transitions do.

    A chunk of T steps of one copy brings T transitions and up to T + n + S − 1 frames (its windows
    and stacks reach into the chunks before), and one frame more for every episode that ends in it.
    """
    steps = config.actors.chunk_steps
    frames_per_transition = (steps + config.learner.n_step + spec.stack - 1) / steps
    slack = 1.05  # for the ends of episodes; when short ones need more, old transitions go early
    shard = math.ceil(config.replay.capacity / config.replay.shards)
    largest_chunk = config.actors.envs * (steps + 2 * (config.learner.n_step + spec.stack))
    return max(math.ceil(shard * frames_per_transition * slack), largest_chunk)


def object_store_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Shared memory that everything under way at the same time fits into, with as much to spare."""
    c = config
    stacks = 2 * spec.stack * spec.frame.nbytes + 128
    samples = c.learner.batch_size * c.learner.batches_per_sample * stacks
    sampling = samples * (c.learner.samples_in_flight + 1)
    chunk = c.max_chunk_transitions * (2 * spec.frame.nbytes + 128)
    inserting = chunk * c.actors.count * c.actors.inserts_in_flight
    floor = 128 * 2**20  # Ray refuses less than 75 MiB; weights of several versions lie here too
    return floor + 2 * (sampling + inserting)

"""How much memory parts need, computed from the configuration before anything is allocated."""

from __future__ import annotations

import math

from common.config import Config
from common.types import EnvironmentSpec


def shard_capacity(config: Config) -> int:
    """Transitions of one shard."""
    return math.ceil(config.replay.capacity / config.replay.shards)


def frame_capacity(config: Config, spec: EnvironmentSpec) -> int:
    """Frames one shard has room for, so that they last as long as its transitions do.

    A chunk of T steps of one copy brings T transitions and up to T + n + S − 1 frames (its windows
    and stacks reach into the chunks before), and one frame more for every episode that ends in it.
    """
    steps = config.actors.chunk_steps
    frames_per_transition = (steps + config.learner.n_step + spec.stack - 1) / steps
    slack = 1.05  # for the ends of episodes; when short ones need more, old transitions go early
    largest_chunk = config.actors.envs * (steps + 2 * (config.learner.n_step + spec.stack))
    return max(math.ceil(shard_capacity(config) * frames_per_transition * slack), largest_chunk)


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

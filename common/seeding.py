"""Random streams: one for each part, its index and its life, all from the run's seed."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Role(IntEnum):
    """Who draws from the stream. Numbers are part of a run's reproducibility: never reuse one."""

    ACTOR = 0
    SHARD = 2
    EVALUATOR = 3
    NETWORK = 4
    SAMPLER = 5
    EXAMINER = 6  # `raydqn evaluate`: other episodes than those that the run was scored with


def seed_sequence(
    seed: int, role: Role, index: int = 0, incarnation: int = 0
) -> np.random.SeedSequence:
    """The stream's root.

    A replaced actor keeps its index but gets the next incarnation, so that it repeats nothing.
    """
    return np.random.SeedSequence(seed, spawn_key=(int(role), index, incarnation))


def integer_seeds(sequence: np.random.SeedSequence, count: int) -> list[int]:
    """`count` seeds in [0, 2³¹), for libraries that take integers."""
    return [int(word) & 0x7FFFFFFF for word in sequence.generate_state(count)]

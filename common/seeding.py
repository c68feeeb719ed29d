"""Random streams: one for each part, index and incarnation, all from the run's seed."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Role(IntEnum):
    """The user of a stream. Reproducibility depends on the numbers: never reuse one."""

    ACTOR = 0
    SHARD = 2
    EVALUATOR = 3
    NETWORK = 4
    SAMPLER = 5
    OFFLINE_EVALUATOR = 6  # `raydqn evaluate`: other episodes than those of the run's scores
    LEARNER = 7  # noise of the weights, and fractions of implicit quantiles


def seed_sequence(
    seed: int, role: Role, index: int = 0, incarnation: int = 0
) -> np.random.SeedSequence:
    """The root of a stream.

    A replacement keeps the index and gets the next incarnation, so that it repeats no episode.
    """
    return np.random.SeedSequence(seed, spawn_key=(int(role), index, incarnation))


def integer_seeds(sequence: np.random.SeedSequence, count: int) -> list[int]:
    """`count` seeds in [0, 2³¹), for libraries that take integers."""
    return [int(word) & 0x7FFFFFFF for word in sequence.generate_state(count)]

"""Actions: from the number that the agent chooses to an action of the environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from common.errors import UserError
from common.types import Array

MAX_ACTIONS = 4_096
"""Of all combinations of a MultiDiscrete: the network has an output for each."""

ToActions = Callable[[Array], Array]


def numbered(space: gym.Space[Any], env_id: str) -> tuple[int, ToActions]:
    """The number of actions, and how a batch of numbers 0 … A−1 becomes a batch of actions.

    The actions of a `MultiDiscrete` and a `MultiBinary` are their combinations, the last part the
    fastest.

    Args:
        space: of one copy's actions.
        env_id: for messages.

    Raises:
        UserError: the actions cannot be numbered, are too many, or there is no choice.
    """
    if isinstance(space, gym.spaces.Discrete):
        count, start = int(space.n), int(space.start)
        _check_choice(count, space, env_id)
        return count, lambda numbers: numbers + start
    if isinstance(space, gym.spaces.MultiDiscrete):
        return _combinations(space.nvec, space.start, space, env_id)
    if isinstance(space, gym.spaces.MultiBinary):
        return _combinations(np.full(space.shape, 2), np.zeros(space.shape), space, env_id)
    raise UserError(
        f"env.id={env_id}: actions are {type(space).__name__}, but DQN needs Discrete, "
        "MultiDiscrete or MultiBinary"
    )


def parts_of(space: gym.Space[Any]) -> tuple[int, ...]:
    """The number of choices in each part of an action that `numbered` accepts."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(int(size) for size in space.nvec.reshape(-1))
    if isinstance(space, gym.spaces.MultiBinary):
        return (2,) * math.prod(space.shape)
    assert isinstance(space, gym.spaces.Discrete)
    return (int(space.n),)


def _combinations(
    sizes: Array, start: Array, space: gym.Space[Any], env_id: str
) -> tuple[int, ToActions]:
    flat = [int(size) for size in sizes.reshape(-1)]
    count = math.prod(flat)  # of Python's integers, which do not overflow
    _check_count(count, space, env_id)
    assert space.shape is not None
    assert space.dtype is not None
    shape, dtype = space.shape, space.dtype

    def to_actions(numbers: Array) -> Array:
        parts = np.stack(np.unravel_index(numbers, flat), axis=-1).reshape(len(numbers), *shape)
        return (parts + start).astype(dtype)

    return count, to_actions


def _check_count(count: int, space: gym.Space[Any], env_id: str) -> None:
    _check_choice(count, space, env_id)
    if count > MAX_ACTIONS:
        raise UserError(f"env.id={env_id}: {space} has {count:,} actions; at most {MAX_ACTIONS:,}")


def _check_choice(count: int, space: gym.Space[Any], env_id: str) -> None:
    if count < 2:
        raise UserError(f"env.id={env_id}: {space} leaves no choice; at least 2 actions")

"""Observations that Gymnasium can flatten to vectors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FlattenObservation

from common.config_sections import EnvConfig
from common.errors import UserError
from common.types import Array

MAX_VECTOR = 1 << 20


def flattened(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """The environment with vectors as its observations.

    Raises:
        UserError: observations that Gymnasium cannot flatten, or too long a vector.
    """
    space = env.observation_space
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
        try:
            flat = gym.spaces.utils.flatten_space(space)
        except NotImplementedError:
            flat = None
        if not isinstance(flat, gym.spaces.Box):
            raise UserError(
                f"env.id={config.id}: observations are {type(space).__name__}, which Gymnasium "
                "cannot flatten to a vector; wrap the environment so that they are a Box"
            )
        env = FlattenObservation(env)
    shape = env.observation_space.shape
    assert shape is not None
    if shape[0] > MAX_VECTOR:
        raise UserError(
            f"env.id={config.id}: observations flatten to {shape[0]:,} numbers; "
            f"at most {MAX_VECTOR:,}"
        )
    return env


def flattened_scale(space: gym.Space[Any]) -> Array | None:
    """A factor for each number of a flattened Dict or Tuple: 1/255 for its 8-bit parts, else 1.

    Returns:
        `[D]` float32; None where all factors are 1, or the space has no parts.
    """
    if not isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return None
    parts = space.values() if isinstance(space, gym.spaces.Dict) else space
    factors = [_factors(part) for part in parts]
    scale: Array = np.concatenate(factors)
    return None if (scale == 1).all() else scale


def _factors(space: gym.Space[Any]) -> Array:
    inner = flattened_scale(space)
    if inner is not None:
        return inner
    factor = 1.0
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.high.max() == 255:
        factor = 1 / 255
    return np.full(gym.spaces.utils.flatdim(space), factor, np.float32)

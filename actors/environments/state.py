"""State vectors: observations that are vectors, or that Gymnasium can flatten to vectors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FlattenObservation

from actors.environments.environment import cannot_be_made, reporting
from actors.environments.pictures import render_kwargs
from common.config_sections import EnvConfig
from common.errors import UserError

MAX_VECTOR = 1 << 20


def is_plain_vector(space: gym.Space[Any]) -> bool:
    """Whether observations are vectors already."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1


def own_vector(
    spec: EnvSpec, config: EnvConfig, copies: int, render: bool
) -> VectorEnv[Any, Any, Any] | None:
    """The environment's own vectorised version; None if it has none in autoreset mode NEXT_STEP."""
    if spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    try:
        vector = gym.make_vec(
            spec,
            num_envs=copies,
            vectorization_mode="vector_entry_point",
            **render_kwargs(config, render),
            **config.kwargs,
        )
    except TypeError:  # its arguments differ from those of a single copy
        return None
    except Exception as error:
        raise cannot_be_made(config, error) from error
    if vector.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
        with reporting(config.id, "close"):
            vector.close()
        return None
    return vector


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

"""An environment's own vectorised version."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from actors.environments.environment import cannot_be_made, reporting
from actors.environments.pictures import render_kwargs
from actors.environments.process_state import apart
from common.config_sections import EnvConfig


def is_plain_vector(space: gym.Space[Any]) -> bool:
    """Whether observations are vectors already."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1


def has_own_vector(spec: EnvSpec, config: EnvConfig) -> bool:
    """Whether the environment's own vectorised version replaces single copies."""
    if config.action_mask is not None or config.backend == "gymnasium":
        return False  # copy by copy: masks are read so
    return bool(spec.vector_entry_point and not spec.additional_wrappers and not config.wrappers)


def own_vector(
    spec: EnvSpec, config: EnvConfig, copies: int, render: bool
) -> VectorEnv[Any, Any, Any] | None:
    """The environment's own vectorised version; None if it is not in autoreset mode NEXT_STEP."""
    try:
        with apart():
            vector = gym.make_vec(
                spec,
                num_envs=copies,
                vectorization_mode="vector_entry_point",
                **{**config.kwargs, **render_kwargs(config, render)},
            )
    except TypeError:  # its arguments differ from those of a single copy
        return None
    except (Exception, SystemExit) as error:
        raise cannot_be_made(config, error) from error
    if vector.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
        with reporting(config.id, "close"):
            vector.close()
        return None
    return vector

"""Any registered Gymnasium environment with discrete actions: vectors, pictures, MinAtar."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actors.environments.environment import Environment, cannot_be_made, reporting
from actors.environments.minatar import grid_frames, is_grid
from actors.environments.pictures import (
    PictureObservation,
    is_picture,
    picture_protocol,
    render_kwargs,
    rendered,
    set_screen_size,
)
from actors.environments.registry import find_registered
from actors.environments.state import flattened, is_plain_vector, own_vector
from actors.environments.unused_keys import refuse_unused_keys
from common.config_sections import EnvConfig
from common.errors import UserError
from common.types import Array, EnvironmentSpec, FrameSpec


def make_gymnasium(config: EnvConfig, copies: int, render: bool) -> Environment:
    """N copies of a registered environment; see `make_environment`."""
    spec = find_registered(config.id)
    probe = _make_single(spec, config, render)
    actions, state_space = probe.action_space, probe.unwrapped.observation_space
    if not isinstance(actions, gym.spaces.Discrete):
        with reporting(config.id, "close"):
            probe.close()
        raise UserError(
            f"env.id={config.id}: actions are {type(actions).__name__}, but DQN needs Discrete"
        )
    is_plain = config.observation == "state" and is_plain_vector(probe.observation_space)
    vector = own_vector(spec, config, copies, render) if is_plain else None
    if vector is not None:
        space = vector.single_observation_space
        with reporting(config.id, "close"):
            probe.close()
    else:
        probe = _wrap(probe, config)
        space = probe.observation_space
        members = [probe] + [
            _wrap(_make_single(spec, config, render), config) for _ in range(copies - 1)
        ]
        vector = SyncVectorEnv(
            [partial(_give, member) for member in members],
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
    assert isinstance(space, gym.spaces.Box)
    frame, to_frames = _frames_of(space)
    refuse_unused_keys(config, frame)
    is_flattened = config.observation == "state" and not is_plain and not frame.is_picture
    return Environment(
        vector,
        EnvironmentSpec(
            frame,
            config.stack,
            int(actions.n),
            _protocol(config, frame, state_space if is_flattened else None),
            _max_episode_steps(spec, config),
        ),
        to_frames,
        int(actions.start),
        frames_per_step=1,
    )


def _protocol(
    config: EnvConfig, frame: FrameSpec, flattened_from: gym.Space[Any] | None
) -> dict[str, Any]:
    """The settings that a score is meaningless without; see `EnvironmentSpec`."""
    protocol: dict[str, Any] = {
        "env": config.id,
        "observation": config.observation,
        "stack": config.stack,
    }
    if config.kwargs:
        protocol["kwargs"] = config.kwargs
    if flattened_from is not None:
        protocol["observation"] = f"{_space_name(flattened_from)}, flattened"
    if config.observation == "pixels":
        protocol["rendered"] = f"{config.render_width or '–'}×{config.render_height or '–'}"
    if frame.is_picture and frame.scale != 1.0:
        protocol["picture"] = picture_protocol(config)
    return protocol


def _max_episode_steps(spec: EnvSpec, config: EnvConfig) -> int | None:
    """The limit that Gymnasium's wrapper applies; its -1 means none."""
    given = config.kwargs.get("max_episode_steps", spec.max_episode_steps)
    return given if isinstance(given, int) and given > 0 else None


def _make_single(spec: EnvSpec, config: EnvConfig, render: bool) -> gym.Env[Any, Any]:
    try:
        return gym.make(spec, **render_kwargs(config, render), **config.kwargs)
    except Exception as error:  # an environment's constructor may raise anything
        raise cannot_be_made(config, error) from error


def _wrap(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """Pictures preprocessed, binary planes as they are, other observations flattened."""
    if config.observation == "pixels":
        set_screen_size(env, config)
        env = rendered(env, config)
    space = env.observation_space
    if is_picture(space):
        return PictureObservation(env, config)
    if isinstance(space, gym.spaces.Box) and is_grid(space):
        return env
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        raise UserError(
            f"env.id={config.id}: pictures of shape {space.shape}; must be [H, W], [H, W, 1] or "
            "[H, W, 3], one at a time (env.stack stacks them)"
        )
    return flattened(env, config)


def _give(member: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return member


def _frames_of(space: gym.spaces.Box) -> tuple[FrameSpec, Callable[[Array], Array]]:
    """Shape and type of a frame of this space, and how a batch of observations becomes frames."""
    if space.dtype == np.uint8 and len(space.shape) == 3:
        return FrameSpec(space.shape, "uint8", 1 / 255), np.asarray
    if is_grid(space):
        return grid_frames(space)
    scale = 1 / 255 if space.dtype == np.uint8 else 1.0
    return (
        FrameSpec(space.shape, "float32", scale),
        lambda batch: np.asarray(batch, np.float32),
    )


def _space_name(space: gym.Space[Any]) -> str:
    return type(space).__name__ + (str(list(space.shape)) if space.shape else "")

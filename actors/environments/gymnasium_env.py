"""Any registered Gymnasium environment with actions that can be numbered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from actors.environments.actions import numbered
from actors.environments.copies import Copies
from actors.environments.environment import Environment, cannot_be_made, reporting
from actors.environments.flattening import flattened, flattened_scale
from actors.environments.grids import grid_frames
from actors.environments.mask_readers import mask_readers
from actors.environments.masks import ActionMasks
from actors.environments.meaning import Meaning, meaning_of
from actors.environments.member import CheckedMember
from actors.environments.minatar import (
    import_package,
    is_vectorised,
    minatar_protocol,
    minatar_vector,
)
from actors.environments.minatar_games import MinAtarVector
from actors.environments.observations import empty_part, short
from actors.environments.own_vector import has_own_vector, is_plain_vector, own_vector
from actors.environments.pictures import (
    PictureObservation,
    picture_protocol,
    render_kwargs,
    rendered,
    set_screen_size,
)
from actors.environments.process_state import apart
from actors.environments.registry import find_registered, import_users_module
from actors.environments.unused_keys import refuse_unused_keys
from actors.environments.vector import Vector
from common.config_sections import EnvConfig
from common.errors import UserError
from common.types import Array, EnvironmentSpec, FrameSpec


def make_gymnasium(config: EnvConfig, copies: int, render: bool) -> Environment:
    """N copies of a registered environment; see `make_environment`."""
    spec = find_registered(config.id)
    if is_vectorised(spec, config, render):
        games = minatar_vector(spec, config, copies)
        return _assembled(
            *(spec, config, games, "grid", games.single_observation_space),
            games.single_action_space,
            minatar_protocol(games),
        )
    import_package(spec)
    first = _make_member(spec, config, render, 0)
    try:
        numbered(first.action_space, config.id)
        empty = empty_part(first.observation_space)
        if empty is not None:
            raise UserError(f"env.id={config.id}: {empty}")
    except UserError:
        with reporting(config.id, "close"):
            first.close()
        raise
    declared, action_space = first.observation_space, first.action_space
    protocol = minatar_protocol(first)
    vector: Vector | None = None
    meaning: Meaning = "vector"
    if _may_have_own_vector(config, first) and has_own_vector(spec, config):
        with reporting(config.id, "close"):
            first.close()  # perhaps only one can exist
        vector = own_vector(spec, config, copies, render)
        if vector is None:
            first = _make_member(spec, config, render, 0)
    if vector is None:
        vector, meaning = _copies(spec, config, copies, render, first)
    return _assembled(spec, config, vector, meaning, declared, action_space, protocol)


def _assembled(
    spec: EnvSpec,
    config: EnvConfig,
    vector: Vector,
    meaning: Meaning,
    declared: gym.Space[Any],
    action_space: gym.Space[Any],
    protocol: dict[str, Any],
) -> Environment:
    """The environment of a vector of copies.

    Args:
        spec: as registered.
        config: of the environment.
        vector: the copies.
        meaning: of their observations.
        declared: observations of one copy, before they became those of `vector`.
        action_space: of one copy.
        protocol: settings of its family.
    """
    num_actions, to_actions = numbered(action_space, config.id)
    space = vector.single_observation_space
    assert isinstance(space, gym.spaces.Box)
    cap = _max_episode_steps(spec, config)
    frame, to_frames = _frames_of(space, meaning, config, declared)
    refuse_unused_keys(config, meaning)
    masks = ActionMasks(config, action_space) if config.action_mask is not None else None
    return Environment(
        vector,
        EnvironmentSpec(
            frame,
            config.stack,
            num_actions,
            _protocol(config, meaning, declared)
            | protocol
            | {"max_episode_steps": cap, "actions": num_actions},
            cap,
            masks_actions=masks is not None,
        ),
        to_frames,
        to_actions,
        frames_per_step=1,
        reads_lives=config.life_loss_ends,
        masks=masks,
        is_pure=_is_pure(spec, vector),
    )


def _is_pure(spec: EnvSpec, vector: Vector) -> bool:
    """Whether the code of all copies is known, and changes nothing in the process."""
    if isinstance(vector, MinAtarVector):
        return True
    known = str(spec.vector_entry_point).startswith("gymnasium.envs.classic_control.")
    return known and isinstance(vector, VectorEnv) and vector.render_mode is None


def _may_have_own_vector(config: EnvConfig, first: CheckedMember) -> bool:
    return (
        config.observation in ("state", "vector")
        and is_plain_vector(first.observation_space)
        and isinstance(first.action_space, gym.spaces.Discrete)
    )


def _copies(
    spec: EnvSpec, config: EnvConfig, copies: int, render: bool, first: CheckedMember
) -> tuple[Copies, Meaning]:
    """All copies with frames as observations, and the meaning of these."""
    made = [first]
    try:
        member, meaning = _wrap(first, config)
        members = [member]
        for copy in range(1, copies):
            made.append(_make_member(spec, config, render, copy))
            _check_equal(config, first, made[-1], copy)
            members.append(_wrap(made[-1], config)[0])
        vector = Copies(members, config.life_loss_ends, mask_readers(config, members))
    except BaseException:
        for one in made:  # what they hold, such as a port, is free for the next try
            with suppress(Exception, SystemExit), apart():
                one.close()
        raise
    return vector, meaning


def _check_equal(config: EnvConfig, first: CheckedMember, other: CheckedMember, copy: int) -> None:
    for name in ("observation_space", "action_space"):
        here, there = getattr(first, name), getattr(other, name)
        if here != there:
            raise UserError(
                f"env.id={config.id}: copies differ: the {name.replace('_', ' ')} of copy 0 is "
                f"{short(here)}, that of copy {copy} {short(there)}"
            )


def _protocol(config: EnvConfig, meaning: Meaning, declared: gym.Space[Any]) -> dict[str, Any]:
    """The settings that a score is meaningless without; see `EnvironmentSpec`."""
    protocol: dict[str, Any] = {
        "env": config.id,
        "observation": config.observation,
        "stack": config.stack,
    }
    if config.kwargs:
        protocol["kwargs"] = config.kwargs
    if config.wrappers:
        protocol["wrappers"] = list(config.wrappers)
    if config.action_mask is not None:
        protocol["action_mask"] = config.action_mask
    if meaning == "vector" and config.observation != "pixels" and not is_plain_vector(declared):
        protocol["observation"] = f"{_space_name(declared)}, flattened"
    if config.observation == "pixels":
        protocol["rendered"] = f"{config.render_width or '–'}×{config.render_height or '–'}"
    if meaning == "picture":
        protocol["picture"] = picture_protocol(config)
    if config.scale is not None:
        protocol["scale"] = config.scale
    protocol["life_loss_ends"] = config.life_loss_ends
    protocol["reward_clip"] = config.reward_clip
    return protocol


def _max_episode_steps(spec: EnvSpec, config: EnvConfig) -> int | None:
    """The limit that Gymnasium's wrapper applies; its -1 means none."""
    given = config.kwargs.get("max_episode_steps", spec.max_episode_steps)
    return given if isinstance(given, int) and given > 0 else None


def _make_member(spec: EnvSpec, config: EnvConfig, render: bool, copy: int) -> CheckedMember:
    """A copy in the user's wrappers."""
    try:
        with apart(fresh=True):
            env = gym.make(spec, **{**config.kwargs, **render_kwargs(config, render)})
            for name in config.wrappers:
                env = _wrapper(name)(env)
            return CheckedMember(env, config.id, copy)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # an environment's constructor may raise anything
        raise cannot_be_made(config, error, copy) from error


def _wrapper(name: str) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]:
    """The class that "module:Class" names.

    Raises:
        UserError: the module cannot be imported, or has no such class.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f'env.wrappers={name}: must be "module:Class"')
    found = getattr(import_users_module(module, f"env.wrappers={name}"), attribute, None)
    if found is None:
        raise UserError(f"env.wrappers={name}: module {module} has no {attribute}")
    if not callable(found):
        raise UserError(f"env.wrappers={name}: is not callable; must be a wrapper's class")
    wrapper: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] = found
    return wrapper


def _wrap(env: gym.Env[Any, Any], config: EnvConfig) -> tuple[gym.Env[Any, Any], Meaning]:
    """Pictures preprocessed, grids as they are, other observations flattened."""
    if config.observation == "pixels":
        set_screen_size(env, config)
        env = rendered(env, config)
    meaning = meaning_of(env.observation_space, config)
    if meaning == "picture":
        return PictureObservation(env, config), meaning
    return (env if meaning in ("grid", "planes") else flattened(env, config)), meaning


def _frames_of(
    space: gym.spaces.Box, meaning: Meaning, config: EnvConfig, declared: gym.Space[Any]
) -> tuple[FrameSpec, Callable[[Array], Array]]:
    """Shape and type of a frame, and how a batch of observations becomes frames."""
    if meaning == "picture":
        return FrameSpec(space.shape, "uint8", config.scale or 1 / 255), np.asarray
    if meaning in ("grid", "planes"):
        return grid_frames(space, config.scale, channels_first=meaning == "planes")
    factors = None if config.scale else flattened_scale(declared)
    scale = config.scale or 1.0
    if factors is None:
        if not config.scale and space.dtype == np.uint8 and space.high.max() == 255:
            scale = 1 / 255
        return FrameSpec(space.shape, "float32", scale), lambda b: np.asarray(b, np.float32)
    return (
        FrameSpec(space.shape, "float32", scale),
        lambda batch: np.asarray(batch, np.float32) * factors,
    )


def _space_name(space: gym.Space[Any]) -> str:
    return f"{type(space).__name__}{list(space.shape) if space.shape else ''}"

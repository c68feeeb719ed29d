"""Atari games of ale-py, through its own vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from actors.environments.environment import Environment, cannot_be_made
from actors.environments.registry import find_registered
from common.config_sections import EnvConfig
from common.errors import UserError
from common.types import Array, EnvironmentSpec, FrameSpec


def is_atari(env_id: str) -> bool:
    """Whether the id is that of an Atari game of ale-py."""
    return env_id.startswith("ALE/")


def make_atari(config: EnvConfig, copies: int) -> Environment:
    """N copies of an Atari game: ale-py preprocesses as Mnih et al. 2015 did, raydqn stacks.

    Raises:
        UserError: see `make_environment`.
    """
    vector = _vector(config, copies)
    num_actions = int(vector.single_action_space.n)
    space = vector.single_observation_space
    shape = tuple(space.shape)
    if len(shape) == 4:  # colour: [1, H, W, 3]
        shape = (3, shape[1], shape[2])

    def to_frames(batch: Array) -> Array:
        return batch if batch.ndim == 4 else batch[:, 0].transpose(0, 3, 1, 2)

    return Environment(
        vector,
        EnvironmentSpec(
            FrameSpec(shape, "uint8", 1 / 255),
            config.stack,
            num_actions,
            _protocol(config, num_actions),
            max(1, config.max_episode_frames // config.frame_skip),
        ),
        to_frames,
        first_action=0,
        frames_per_step=config.frame_skip,
    )


def _vector(config: EnvConfig, copies: int) -> Any:
    """ale-py's own vector environment."""
    if config.observation == "pixels":
        raise UserError('env.observation=pixels: an Atari game returns its screen as its "state"')
    for key, value, default in (("crop", config.crop, None), ("invert", config.invert, False)):
        if value != default:
            raise UserError(f"env.{key}={value}: ale-py makes the pictures of {config.id} itself")
    try:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        raise UserError(f"env.id={config.id}: needs ale-py (pip install ale-py)") from None
    gym.register_envs(ale_py)
    settings = find_registered(config.id).kwargs
    game = settings["game"]
    if settings.get("obs_type") == "ram":
        raise UserError(f"env.id={config.id}: must show pictures, not -ram")
    try:
        return AtariVectorEnv(
            game,
            num_envs=copies,
            num_threads=1,  # one actor, one core: more actors use more
            max_num_frames_per_episode=config.max_episode_frames,
            repeat_action_probability=config.sticky_actions,
            img_height=config.height,
            img_width=config.width,
            grayscale=config.grey,
            stack_num=1,
            frameskip=config.frame_skip,
            noop_max=config.noop_max,
            episodic_life=False,
            reward_clipping=False,
            use_fire_reset=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            **config.kwargs,
        )
    except Exception as error:  # ale-py raises several kinds
        raise cannot_be_made(config, error) from error


def _protocol(config: EnvConfig, num_actions: int) -> dict[str, Any]:
    """The settings that a score is meaningless without; see `EnvironmentSpec`."""
    return {
        "env": config.id,
        "sticky_actions": config.sticky_actions,
        "frame_skip": config.frame_skip,
        "stack": config.stack,
        "noop_max": config.noop_max,
        "max_episode_frames": config.max_episode_frames,
        "life_loss_ends": config.life_loss_ends,
        "reward_clip": config.reward_clip,
        "picture": f"{config.width}×{config.height} {'grey' if config.grey else 'RGB'}",
        "actions": num_actions,
    }

"""Atari games of ale-py, through its own vector environment."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from actors.environments.environment import Environment, cannot_be_made
from actors.environments.registry import find_registered, import_users_module
from common.config_sections import EnvConfig
from common.errors import UserError
from common.suggestion import suggest
from common.types import Array, EnvironmentSpec, FrameSpec

NAMESPACE = "ALE/"
OWN_KEYS = {
    "frameskip": "env.frame_skip",
    "repeat_action_probability": "env.sticky_actions",
    "max_num_frames_per_episode": "env.max_episode_frames",
    "noop_max": "env.noop_max",
    "img_height": "env.height",
    "img_width": "env.width",
    "grayscale": "env.grey",
    "stack_num": "env.stack",
    "reward_clipping": "env.reward_clip",
    "episodic_life": "env.life_loss_ends",
}
"""Keywords of ale-py for which the configuration has keys."""
KEYWORDS = ("full_action_space", "maxpool", "use_fire_reset")
"""Keywords that ale-py's vector environment takes besides."""


_OLDER = re.compile(r"([A-Z][A-Za-z0-9]*?)(-ram)?(NoFrameskip|Deterministic)?-v[0-5]")
"""Ids of OpenAI Gym: the game, then the settings that the id stands for."""


def is_atari(env_id: str) -> bool:
    """Whether the id is that of an Atari game of ale-py, however it begins.

    Raises:
        UserError: the id is one of the older forms, which stand for other settings.
    """
    module, _, name = env_id.rpartition(":")
    if module not in ("", "ale_py"):
        import_users_module(module, f"env.id={env_id}")  # it may register a game of its own
    elif name.startswith(NAMESPACE):
        return True
    elif name not in gym.registry and _OLDER.fullmatch(name):
        with suppress(ImportError):
            _register()
    spec = gym.registry.get(name)
    if spec is None:
        older = _OLDER.fullmatch(name)
        right = f"{NAMESPACE}{older[1]}-v5" if older and module in ("", "ale_py") else ""
        if right not in gym.registry:
            return False
        raise UserError(
            f"env.id={env_id}: is an older form of Atari ids; use env.id={right}, and set "
            "env.sticky_actions and env.frame_skip"
        )
    if not str(spec.entry_point).startswith("ale_py"):
        return False
    if name.startswith(NAMESPACE):
        return True
    settings = spec.kwargs
    right = next(
        known
        for known, other in gym.registry.items()
        if known.startswith(NAMESPACE) and other.kwargs.get("game") == settings.get("game")
    )
    sticky, skip = settings.get("repeat_action_probability"), settings.get("frameskip")
    raise UserError(
        f"env.id={env_id}: stands for other settings of the game (sticky actions {sticky}, frame "
        f"skip {skip}); use env.id={right}, and set env.sticky_actions and env.frame_skip"
    )


def _register() -> None:
    import ale_py

    gym.register_envs(ale_py)


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
            FrameSpec(shape, "uint8", config.scale or 1 / 255),
            config.stack,
            num_actions,
            atari_protocol(config, num_actions),
            max(1, config.max_episode_frames // config.frame_skip),
        ),
        to_frames,
        lambda numbers: numbers,
        frames_per_step=config.frame_skip,
        reads_lives=True,
    )


def _vector(config: EnvConfig, copies: int) -> Any:
    """ale-py's own vector environment."""
    if config.observation not in ("state", "picture"):
        raise UserError(
            f'env.observation={config.observation}: an Atari game returns its screen as its "state"'
        )
    if config.wrappers:
        raise UserError(
            f"env.wrappers={list(config.wrappers)}: ale-py makes all copies of {config.id} itself, "
            "so there is none to wrap"
        )
    if config.action_mask is not None:
        raise UserError(
            f"env.action_mask={config.action_mask}: {config.id} has none, because every action of "
            "an Atari game is legal"
        )
    _check_keywords(config)
    for key, value, default in (("crop", config.crop, None), ("invert", config.invert, False)):
        if value != default:
            raise UserError(f"env.{key}={value}: ale-py makes the pictures of {config.id} itself")
    if config.backend == "gymnasium":
        raise UserError(
            f"env.backend=gymnasium: ale-py makes all copies of {config.id} itself; use auto, or "
            "envpool"
        )
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        raise UserError(f"env.id={config.id}: needs ale-py (pip install ale-py)") from None
    _register()
    settings = find_registered(config.id).kwargs
    game = settings["game"]
    if settings.get("obs_type") == "ram":
        raise UserError(f"env.id={config.id}: must show pictures, not -ram")
    try:
        ours: dict[str, Any] = {
            "num_envs": copies,
            "num_threads": 1,  # one actor, one core: more actors use more
            "max_num_frames_per_episode": config.max_episode_frames,
            "repeat_action_probability": config.sticky_actions,
            "img_height": config.height,
            "img_width": config.width,
            "grayscale": config.grey,
            "stack_num": 1,
            "frameskip": config.frame_skip,
            "noop_max": config.noop_max,
            "episodic_life": False,
            "reward_clipping": False,
            "use_fire_reset": False,
            "autoreset_mode": AutoresetMode.NEXT_STEP,
        }
        return AtariVectorEnv(game, **{**ours, **config.kwargs})
    except Exception as error:  # ale-py raises several kinds
        raise cannot_be_made(config, error) from error


def _check_keywords(config: EnvConfig) -> None:
    """Refuse what ale-py's vector environment does not take, or the configuration has a key for."""
    for key, value in config.kwargs.items():
        name = f"env.kwargs.{key}={value!r}"
        if key in OWN_KEYS:
            raise UserError(f"{name}: {config.id}: use {OWN_KEYS[key]}")
        if key == "continuous" and value:
            raise UserError(f"{name}: {config.id}: DQN needs discrete actions")
        if key not in (*KEYWORDS, "continuous"):
            raise UserError(
                f"{name}: {config.id}: ale-py's vector environment does not take it"
                f"{suggest(key, KEYWORDS)}; it takes {', '.join(KEYWORDS)}"
            )


def atari_protocol(config: EnvConfig, num_actions: int) -> dict[str, Any]:
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
        **({"kwargs": config.kwargs} if config.kwargs else {}),
        **({"scale": config.scale} if config.scale else {}),
    }

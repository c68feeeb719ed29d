"""EnvPool: all copies in one C++ library, where it has the environment; `env.backend = "envpool"`.

EnvPool takes its seeds when the copies are made, so a reset with a seed makes them. An episode that
ends at the very limit of steps counts as truncated, but for Atari, where EnvPool tells both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from actors.environments.actions import numbered
from actors.environments.atari import NAMESPACE, atari_protocol
from actors.environments.environment import Environment, cannot_be_made
from actors.environments.own_vector import is_plain_vector
from actors.environments.process_state import apart
from actors.environments.unused_keys import refuse_unused_keys
from common.config_errors import COMMAND_LINE
from common.config_sections import EnvConfig
from common.errors import UserError
from common.suggestion import suggest
from common.types import Array, EnvironmentSpec, FrameSpec

NAME = "envpool"
UNSUPPORTED: dict[str, Any] = {
    "kwargs": {},
    "wrappers": (),
    "action_mask": None,
    "crop": None,
    "invert": False,
}
"""Keys that have no effect in EnvPool, with their defaults."""
SEED_LIMIT = 1 << 31
"""EnvPool's seeds have 31 bits."""
UNLIMITED = (1 << 31) - 1
"""EnvPool's limit of steps where there is none."""


class PoolVector:
    """The part of `gymnasium.vector.VectorEnv` that `Environment` uses, over a pool of EnvPool's.

    Attributes:
        num_envs: N.
        single_observation_space: of one copy.
        single_action_space: of one copy.
        max_episode_steps: of the pool; None: no limit.
    """

    def __init__(self, task: str, copies: int, options: dict[str, Any]) -> None:
        """Read the spaces; the first reset makes the copies.

        Args:
            task: EnvPool's id.
            copies: N.
            options: of the task.
        """
        import envpool

        self._make: Callable[[list[int]], Any] = lambda seeds: envpool.make_gymnasium(
            task, num_envs=copies, num_threads=1, seed=seeds, **options
        )  # one actor, one core: more actors use more
        self._pool: Any = None
        spec = envpool.make_spec(task, num_envs=copies, **options)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = copies
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the type of its bounds
            self.single_observation_space: gym.Space[Any] = spec.gymnasium_observation_space
        self.single_action_space: gym.Space[Any] = spec.gymnasium_action_space
        limit = int(spec.config.max_episode_steps)
        self.max_episode_steps = limit if limit < UNLIMITED else None

    def reset(self, seed: int | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every copy; copy i gets the seed `seed + i`."""
        if seed is not None or self._pool is None:
            self.close()
            first = np.random.SeedSequence().generate_state(1)[0] if seed is None else seed
            self._pool = self._make(
                [(int(first) + copy) % SEED_LIMIT for copy in range(self.num_envs)]
            )
            mode = self._pool.metadata.get("autoreset_mode")
            if mode is not AutoresetMode.NEXT_STEP:
                raise UserError(
                    f"env.backend={NAME}: autoreset mode is {mode}; raydqn needs "
                    f"{AutoresetMode.NEXT_STEP}: install EnvPool 1.2"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above: the pool makes a space of its own
            observation, info = self._pool.reset()
        return observation, info

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of every copy; a copy whose episode has ended is reset instead."""
        observation, reward, terminated, truncated, info = self._pool.step(actions.astype(np.int32))
        if "terminated" in info:  # an Atari game that ends at the limit
            terminated = terminated | np.asarray(info["terminated"], bool) & truncated
        return observation, reward, terminated, truncated, info

    def render(self) -> None:
        """No pictures."""

    def close(self) -> None:
        """Free the copies."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def make_envpool(config: EnvConfig, copies: int, render: bool) -> Environment:
    """N copies of an environment that EnvPool has.

    Args:
        config: of the environment, with `env.backend = "envpool"`.
        copies: N.
        render: pictures are asked for.

    Raises:
        UserError: EnvPool is missing, has no such environment, or cannot do what is asked.
    """
    tasks = _tasks(config)
    is_game = config.id.rpartition(":")[2].startswith(NAMESPACE)
    task = config.id.rpartition(":")[2].removeprefix(NAMESPACE)
    if task not in tasks or (":" in config.id and not is_game):
        near = suggest(task, tasks, f"{NAMESPACE}{{}}".format if is_game else str)
        raise UserError(f"env.backend={NAME}: EnvPool has no {config.id}{near or '; use auto'}")
    _refuse(config, render, is_game)
    try:
        with apart():
            vector = PoolVector(task, copies, _atari_options(config) if is_game else {})
    except Exception as error:  # EnvPool raises several kinds, AssertionError among them
        raise cannot_be_made(config, error) from error
    num_actions, to_actions = numbered(vector.single_action_space, config.id)
    limit = vector.max_episode_steps
    protocol = atari_protocol(config, num_actions) if is_game else _protocol(config)
    if is_game:
        protocol["noop_min"] = 1  # ale-py: 0
    protocol |= {
        "backend": f"{NAME} {metadata.version(NAME)}",
        "max_episode_steps": limit,
        "actions": num_actions,
    }
    return Environment(
        vector,
        EnvironmentSpec(
            _frame(vector, config, is_game), config.stack, num_actions, protocol, limit
        ),
        np.asarray if is_game else lambda batch: np.asarray(batch, np.float32),
        to_actions,
        frames_per_step=config.frame_skip if is_game else 1,
        reads_lives=is_game,
    )


def _tasks(config: EnvConfig) -> list[str]:
    try:
        with apart():
            import envpool
    except ImportError:
        raise UserError(
            f"env.backend={NAME}: {config.id} needs EnvPool (pip install 'raydqn[envpool]')"
        ) from None
    tasks: list[str] = envpool.list_all_envs()
    return tasks


def _refuse(config: EnvConfig, render: bool, is_game: bool) -> None:
    """Refuse what EnvPool cannot do, or does otherwise than the other backends.

    Raises:
        UserError: names the key and its value.
    """
    for key, default in UNSUPPORTED.items():
        value = getattr(config, key)
        if value != default:
            raise UserError(
                f"env.{key}={COMMAND_LINE.value(value)}: EnvPool makes the copies of {config.id} "
                "itself, without it; use env.backend=auto"
            )
    if render:
        raise UserError(f"env.backend={NAME}: EnvPool renders no pictures here; use auto")
    allowed = ("state", "picture") if is_game else ("state", "vector")
    if config.observation not in allowed:
        raise UserError(
            f"env.observation={config.observation}: with env.backend={NAME} {config.id} returns "
            f"{' or '.join(allowed)}"
        )
    if is_game and config.noop_max == 0:
        raise UserError("env.noop_max=0: EnvPool begins with 1 no-op or more; use env.backend=auto")


def _atari_options(config: EnvConfig) -> dict[str, Any]:
    """EnvPool's words for the keys of an Atari game."""
    return {
        "stack_num": 1,
        "frame_skip": config.frame_skip,
        "noop_max": config.noop_max,
        "repeat_action_probability": config.sticky_actions,
        "max_episode_steps": max(1, config.max_episode_frames // config.frame_skip),
        "img_height": config.height,
        "img_width": config.width,
        "gray_scale": config.grey,
        "episodic_life": False,
        "reward_clip": False,
        "use_fire_reset": False,
    }


def _protocol(config: EnvConfig) -> dict[str, Any]:
    """As of any environment whose observations are vectors; see `EnvironmentSpec`."""
    return {
        "env": config.id,
        "observation": config.observation,
        "stack": config.stack,
        **({"scale": config.scale} if config.scale else {}),
        "life_loss_ends": config.life_loss_ends,
        "reward_clip": config.reward_clip,
    }


def _frame(vector: PoolVector, config: EnvConfig, is_game: bool) -> FrameSpec:
    """Shape and type of a frame.

    Raises:
        UserError: the observations are no vectors.
    """
    space = vector.single_observation_space
    if is_game:
        assert isinstance(space, gym.spaces.Box)
        return FrameSpec(tuple(space.shape), "uint8", config.scale or 1 / 255)
    if not is_plain_vector(space):
        advice = "use env.backend=auto"
        if len(space.shape or ()) > 2:  # a game of Atari has pictures under its other name
            advice = f"for a game of Atari write env.id={NAMESPACE}{config.id}, else {advice}"
        raise UserError(f"env.backend={NAME}: {config.id} returns no vectors there; {advice}")
    refuse_unused_keys(config, "vector")
    assert space.shape is not None
    return FrameSpec(space.shape, "float32", config.scale or 1.0)

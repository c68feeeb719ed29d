"""MinAtar: small games, whose observations are binary planes."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from actors.environments.minatar_games import MinAtarVector, make_vector
from common.config_sections import EnvConfig
from common.errors import UserError

PREFIX = "MinAtar/"
ENTRY_POINT = "minatar.gym:BaseEnv"
VECTORISED = ("1.0.15",)
"""Versions of MinAtar whose games `minatar_games` equals."""


def register_minatar(env_id: str) -> None:
    """Register the games of MinAtar with Gymnasium.

    Args:
        env_id: for the message.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from minatar.gym import register_envs
    except ImportError:
        raise UserError(
            f"env.id={env_id}: needs the package minatar (pip install minatar)"
        ) from None
    if "MinAtar/Breakout-v1" not in gym.registry:
        register_envs()


def minatar_vector(
    spec: EnvSpec, config: EnvConfig, copies: int, render: bool
) -> MinAtarVector | None:
    """All copies of a game of MinAtar at once; see `MinAtarVector`.

    Returns:
        None: another environment, or something is asked that only MinAtar's own copies do, such as
            pictures, wrappers or keywords that raydqn does not know.
    """
    if spec.entry_point != ENTRY_POINT or spec.additional_wrappers or spec.max_episode_steps:
        return None
    needs_copies = render or config.wrappers or config.action_mask is not None
    if needs_copies or config.backend != "auto" or config.observation not in ("state", "grid"):
        return None
    if metadata.version("minatar") not in VECTORISED:
        return None
    return make_vector(copies, {**spec.kwargs, **config.kwargs})


def minatar_protocol(env: gym.Env[Any, Any] | MinAtarVector) -> dict[str, Any]:
    """The settings of MinAtar that a score is meaningless without; empty for another environment.

    Args:
        env: a copy, with or without wrappers, or all copies at once.
    """
    if isinstance(env, MinAtarVector):
        sticky, ramps = env.sticky_actions, env.ramps
    else:
        game = getattr(env.unwrapped, "game", None)
        if type(env.unwrapped).__module__ != "minatar.gym" or game is None:
            return {}
        sticky, ramps = game.sticky_action_prob, bool(getattr(game.env, "ramping", False))
    return {
        "minatar": metadata.version("minatar"),
        "sticky_actions": sticky,
        "difficulty_ramping": ramps,
    }

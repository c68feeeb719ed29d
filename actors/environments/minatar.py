"""MinAtar: small games, whose observations are binary planes."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import gymnasium as gym

from common.errors import UserError

PREFIX = "MinAtar/"


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


def minatar_protocol(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """The settings of MinAtar that a score is meaningless without; empty for another environment.

    Args:
        env: a copy, with or without wrappers.
    """
    game = getattr(env.unwrapped, "game", None)
    if type(env.unwrapped).__module__ != "minatar.gym" or game is None:
        return {}
    return {
        "minatar": metadata.version("minatar"),
        "sticky_actions": game.sticky_action_prob,
        "difficulty_ramping": bool(getattr(game.env, "ramping", False)),
    }

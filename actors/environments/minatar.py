"""MinAtar: small games, whose observations are binary planes."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from actors.environments.minatar_games import GAMES, MinAtarVector, are_known
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
    if find_spec("minatar") is None:
        raise UserError(f"env.id={env_id}: needs the package minatar (pip install minatar)")
    if "MinAtar/Breakout-v1" in gym.registry:
        return
    if _version() in VECTORISED:
        _register_by_name()
        return
    from minatar.gym import register_envs

    register_envs()


def _register_by_name() -> None:
    """As the package does, but without it: its import takes seaborn, scipy and two seconds."""
    for game in GAMES:
        for number, is_minimal in enumerate((False, True)):
            gym.register(
                f"{PREFIX}{game.title().replace('_', '')}-v{number}",
                ENTRY_POINT,
                kwargs={"game": game, "use_minimal_action_set": is_minimal},
            )


def is_vectorised(spec: EnvSpec, config: EnvConfig, render: bool = False) -> bool:
    """Whether `minatar_vector` steps the copies of this environment.

    If not, it is another environment, or something is asked that only MinAtar's own copies do, such
    as pictures, wrappers or keywords that raydqn does not know.
    """
    if spec.entry_point != ENTRY_POINT or spec.additional_wrappers or spec.max_episode_steps:
        return False
    needs_copies = render or config.wrappers or config.action_mask is not None
    if needs_copies or config.backend != "auto" or config.observation not in ("state", "grid"):
        return False
    return _version() in VECTORISED and are_known({**spec.kwargs, **config.kwargs})


def import_package(spec: EnvSpec) -> None:
    """Import MinAtar's package if the environment is one of its games, which are made copy by copy.

    Here and not in a call of the environment: scipy, which it imports, adds filters of warnings,
    and they would count as the environment's own.
    """
    if spec.entry_point == ENTRY_POINT:
        import_module("minatar.gym")


def minatar_vector(spec: EnvSpec, config: EnvConfig, copies: int) -> MinAtarVector:
    """All copies of a game of MinAtar at once, where `is_vectorised`."""
    return MinAtarVector(copies, **{**spec.kwargs, **config.kwargs})


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
    return {"minatar": _version(), "sticky_actions": sticky, "difficulty_ramping": ramps}


def _version() -> str:
    return metadata.version("minatar")

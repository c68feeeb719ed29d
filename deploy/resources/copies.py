"""The copies of the environment that a run makes, and what they take."""

from __future__ import annotations

import socket

from common.config import Config
from common.errors import UserError
from common.text import counted
from common.types import EnvironmentSpec
from deploy.resources.memory import MEMORY_SHARE, available_bytes, memory_need

TOLD_BYTES = 256 << 20
"""Copies that take more altogether are told."""
TOLD_S = 10.0
"""Likewise, to make them one after another."""


def describe_copies(config: Config, spec: EnvironmentSpec) -> str:
    """The copies in words, with what they take if that is much."""
    actors, evaluation = config.actors, config.evaluation
    text = f"environments: {_acting(config):,} in {counted(actors.count, 'actor')}"
    if evaluation.every_learner_steps is None:
        text += ", none for evaluations"
    else:
        text += f", {_evaluating(config):,} for evaluations"
    cost, copies = spec.trial, _acting(config) + _evaluating(config)
    if cost is None or (copies * cost.bytes < TOLD_BYTES and copies * cost.seconds < TOLD_S):
        return text
    return (
        f"{text}; each takes about {_mib(cost.bytes)} and {cost.seconds:.1f} s to make, all "
        f"{_mib(copies * cost.bytes)}"
    )


def check_copies(config: Config, spec: EnvironmentSpec, on_ray: bool) -> None:
    """Compare what the copies will need beside the replay memory with what this machine has.

    Args:
        config: of a run with all parts on this machine; without a number of actors, one is counted.
        spec: of its environment.
        on_ray: see `check_memory`.

    Raises:
        UserError: it does not fit.
    """
    if spec.trial is None:
        return
    copies = _acting(config) + _evaluating(config)
    need, replay = copies * spec.trial.bytes, memory_need(config, spec, on_ray)
    available = int(MEMORY_SHARE * available_bytes())
    if need > TOLD_BYTES and need + replay > available:
        raise UserError(
            f"env.id={config.env.id}: its copies ({copies:,}) need about {need / 2**30:.1f} GiB of "
            f"memory (the first one took {_mib(spec.trial.bytes)}), and the replay memory "
            f"{replay / 2**30:.1f} GiB, but {available / 2**30:.1f} GiB ({MEMORY_SHARE:.0%} of "
            f"what {socket.gethostname()} has free) may be used; set smaller actors.envs, "
            "actors.count, evaluation.envs or replay.capacity"
        )


def _acting(config: Config) -> int:
    return (config.actors.count or 1) * config.actors.envs


def _evaluating(config: Config) -> int:
    evaluation = config.evaluation
    if evaluation.every_learner_steps is None:
        return 0
    return min(evaluation.envs, evaluation.episodes)


def _mib(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"

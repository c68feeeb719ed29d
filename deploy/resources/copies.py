"""The copies of the environment that a run makes, with their memory and time."""

from __future__ import annotations

import socket

from common.config import Config
from common.text import counted
from common.types import EnvironmentSpec
from deploy.resources.memory import MEMORY_SHARE, available_bytes, memory_need

TOLD_BYTES = 256 << 20
"""The run reports the memory of copies that take more than this together."""
TOLD_S = 10.0
"""The run reports the time of copies that take longer to make, one after another."""


def describe_copies(config: Config, spec: EnvironmentSpec) -> str:
    """The copies in words, with their memory and time if that is much."""
    actors, evaluation = config.actors, config.evaluation
    text = f"environments: {_acting(config):,} in {counted(actors.count, 'actor')}"
    if evaluation.every_learner_steps is None:
        text += ", none for evaluations"
    else:
        text += f", {_evaluating(config):,} for evaluations"
    cost, copies = spec.trial, _copies(config)
    if cost is None or (copies * cost.bytes < TOLD_BYTES and copies * cost.seconds < TOLD_S):
        return text
    return (
        f"{text}; each takes about {_size(cost.bytes)} and {cost.seconds:.1f} s to make; together "
        f"up to {_size(copies * cost.bytes)}"
    )


def warning_of_copies(config: Config, spec: EnvironmentSpec, on_ray: bool) -> str | None:
    """Compare the memory of the copies and the replay memory with the memory of this machine.

    A refusal would also stop runs that fit, and no key would let them pass: copies may share the
    memory of the first one, such as modules that its constructor imports, data that its class
    keeps, or a simulator that serves them all.

    Args:
        config: of a run with all parts on this machine; without a number of actors, one is counted.
        spec: of its environment.
        on_ray: see `check_memory`.

    Returns:
        The warning if they may not fit, else None.
    """
    if spec.trial is None:
        return None
    copies = _copies(config)
    need, replay = copies * spec.trial.bytes, memory_need(config, spec, on_ray)
    available = int(MEMORY_SHARE * available_bytes())
    if need <= TOLD_BYTES or need + replay <= available:
        return None
    return (
        f"env.id={config.env.id}: {counted(copies, 'environment')} may need up to {_size(need)} of "
        f"memory (the trial copy took {_size(spec.trial.bytes)}) and the replay memory "
        f"{_size(replay)}, but {_size(available)} are available ({MEMORY_SHARE:.0%} of the free "
        f"memory of {socket.gethostname()}); if that is too little, reduce actors.envs, "
        "actors.count, evaluation.envs or replay.capacity"
    )


def _copies(config: Config) -> int:
    return _acting(config) + _evaluating(config)


def _acting(config: Config) -> int:
    return (config.actors.count or 1) * config.actors.envs


def _evaluating(config: Config) -> int:
    evaluation = config.evaluation
    if evaluation.every_learner_steps is None:
        return 0
    return min(evaluation.envs, evaluation.episodes)


def _size(number: int) -> str:
    if number >= 1 << 30:
        return f"{number / 2**30:,.1f} GiB"
    return f"{number / 2**20:,.0f} MiB"

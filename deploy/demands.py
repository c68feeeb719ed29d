"""What each remote of a run asks of the node that it is placed on; pure, and knows no Ray.

Two custom resources tell the roles of nodes: those that offer `raydqn_learner` hold learner,
shards and variables, those that offer `raydqn_actor` hold actors and evaluator. A node offers
1000 of it and each remote takes a thousandth of one, so that it steers and never limits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from common.config import Config

LEARNER_NODES = "raydqn_learner"
ACTOR_NODES = "raydqn_actor"
SHARE = 0.001


@dataclass(frozen=True)
class Demand:
    """What one kind of remote asks for."""

    title: str  # "learner", "shard", …
    cpus: float  # of each
    gpus: int  # of each
    resource: str | None  # of which each asks for SHARE; None: any node will do
    count: int  # remotes of this kind; 0 actors: as many as fit


def demands(config: Config, offered: Collection[str], gpus_offered: bool) -> list[Demand]:
    """What the remotes of a run ask for, in the order in which they are placed.

    Args:
        config: of the run.
        offered: custom resources that any node, or any node that can be started, offers. A role
            that nobody offers is not asked for.
        gpus_offered: whether any node has a GPU, or can be started with one.
    """
    near_learner = LEARNER_NODES if LEARNER_NODES in offered else None
    far_away = ACTOR_NODES if ACTOR_NODES in offered else None
    learner = config.learner
    return [
        Demand("learner", learner.threads, _gpus(learner.device, gpus_offered), near_learner, 1),
        Demand("shard", 1, 0, near_learner, config.replay.shards),
        Demand("variables", 0, 0, near_learner, 1),
        Demand("evaluator", 1, 0, far_away, 1),
        Demand("actor", 1, 0, far_away, config.actors.count),
    ]


def _gpus(device: str, gpus_offered: bool) -> int:
    """GPUs that the learner must see: counted from 0, so with cuda:1 that must be two."""
    if device == "auto":
        return int(gpus_offered)
    kind, _, index = device.partition(":")
    return (int(index) if index.isdigit() else 0) + 1 if kind == "cuda" else 0

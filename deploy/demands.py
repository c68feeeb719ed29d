"""What each remote asks of a cluster's nodes; known before anything runs, and without Ray.

Nodes tell what they are for by two resources of their own making (see `deploy/clusters`): those
that offer `LEARNER_NODES` hold the learner and the shards near it, those that offer `ACTOR_NODES`
hold actors and evaluator. Where no node offers one of them, any node with room will do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from common.config import Config
from replay_server.client import shard_title

LEARNER_NODES = "raydqn_learner"
ACTOR_NODES = "raydqn_actor"
SHARE = 0.001
"""What a remote takes of either: nodes that offer 1,000 never run out of it before their CPUs."""
EVALUATOR_CPUS = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What one remote, or each of `count` equal ones, takes of the node it runs on."""

    title: str
    cpus: float
    gpus: int = 0
    resource: str | None = None
    count: int = 1

    def bundle(self) -> dict[str, float]:
        """As Ray counts resources; what is not needed is not named."""
        named = {"CPU": self.cpus, "GPU": float(self.gpus)}
        if self.resource is not None:
            named[self.resource] = SHARE
        return {name: amount for name, amount in named.items() if amount > 0}

    def fits(self, node: Mapping[str, float]) -> int:
        """How many of it a node with these resources can hold."""
        shares = [math.floor(node.get(k, 0.0) / v + 1e-6) for k, v in self.bundle().items()]
        return min(shares, default=1 << 30)


def demands(config: Config, offered: Collection[str], gpus_offered: bool) -> list[Demand]:
    """What all parts of a run ask for: the learner, the shards, the actors, the evaluator.

    The holder of the weights asks for nothing. `actors.count = "auto"` comes out as a count of 0.

    Args:
        config: of the run.
        offered: names of the resources that any node offers, or will.
        gpus_offered: any node has a GPU.
    """
    learner_nodes = LEARNER_NODES if LEARNER_NODES in offered else None
    actor_nodes = ACTOR_NODES if ACTOR_NODES in offered else None
    near = config.placement.shards == "near"
    shard_cpus = config.placement.shard_cpus
    return [
        Demand(
            "learner", float(config.learner.threads), _gpus(config, gpus_offered), learner_nodes
        ),
        *(
            Demand(shard_title(index), shard_cpus, resource=learner_nodes if near else None)
            for index in range(config.replay.shards)
        ),
        Demand(
            "actor", config.placement.actor_cpus, resource=actor_nodes, count=config.actors.count
        ),
        Demand("evaluator", EVALUATOR_CPUS, resource=actor_nodes),
    ]


def _gpus(config: Config, offered: bool) -> int:
    """GPUs of the learner. It sees what it asks for, counted from 0: with cuda:1 that is two."""
    device = config.learner.device
    if device == "auto":
        return 1 if offered else 0
    kind, _, index = device.partition(":")
    return int(index or 0) + 1 if kind == "cuda" and index.isdecimal() == bool(index) else 0

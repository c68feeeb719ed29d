"""What each remote asks of a cluster's nodes; known before anything runs, and without Ray.

Nodes tell what they are for by two resources of their own making (see `deploy/clusters`): those
that offer `LEARNER_NODES` hold the learner and the shards near it, those that offer `ACTOR_NODES`
hold actors and evaluator. Where no node offers one of them, any node with room will do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass

from common.config import Config

LEARNER_NODES = "raydqn_learner"
ACTOR_NODES = "raydqn_actor"
SHARE = 0.001
"""What a remote takes of either: nodes that offer 1,000 never run out of it before their CPUs."""
EVALUATOR_CPUS = 1.0
NO_LIMIT = 1 << 31
"""So many of what takes nothing fit a node."""


@dataclass(frozen=True, slots=True)
class ResourceRequest:
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

    def count_fitting(self, node: Mapping[str, float]) -> int:
        """How many of it a node with these resources can hold."""
        shares = [node.get(name, 0.0) / amount for name, amount in self.bundle().items()]
        return math.floor(min([*shares, NO_LIMIT]) + 1e-6)

    def reserve(self, node: MutableMapping[str, float], count: int = 1) -> None:
        """Take so many of it off what is left of a node's resources."""
        for name, amount in self.bundle().items():
            node[name] = node.get(name, 0.0) - count * amount


def resource_requests(
    config: Config, offered: Collection[str], gpus_offered: bool
) -> list[ResourceRequest]:
    """What the parts of a run ask for, in the order in which they are placed.

    `actors.count = "auto"` comes out as a count of 0.

    Args:
        config: of the run.
        offered: names of the resources that any node offers, or will.
        gpus_offered: any node has a GPU.
    """
    learner_nodes = LEARNER_NODES if LEARNER_NODES in offered else None
    actor_nodes = ACTOR_NODES if ACTOR_NODES in offered else None
    learner, placement = config.learner, config.placement
    gpus = _gpus(learner.device, gpus_offered)
    near = learner_nodes if placement.shards == "near" else None
    return [
        ResourceRequest("learner", float(learner.threads), gpus, learner_nodes),
        ResourceRequest("shard", placement.shard_cpus, 0, near, config.replay.shards),
        ResourceRequest("variables", 0.0, 0, learner_nodes),
        ResourceRequest("evaluator", EVALUATOR_CPUS, 0, actor_nodes),
        ResourceRequest("actor", placement.actor_cpus, 0, actor_nodes, config.actors.count),
    ]


def _gpus(device: str, offered: bool) -> int:
    """GPUs of the learner. It sees what it asks for, counted from 0: with cuda:1 that is two."""
    if device == "auto":
        return int(offered)
    kind, _, index = device.partition(":")
    return (int(index) if index.isdecimal() else 0) + 1 if kind == "cuda" else 0

"""Resources that each remote requests of a node: computed from the configuration, without Ray.

Two custom resources tell the purpose of a node (see `deploy/clusters`): nodes that offer
`LEARNER_NODES` hold the learner and the shards near it, nodes that offer `ACTOR_NODES` hold actors
and evaluator. Where no node offers one of them, any node with enough resources will do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass

from common.config import Config
from common.parts import Role

LEARNER_NODES = "raydqn_learner"
ACTOR_NODES = "raydqn_actor"
SHARE = 0.001
"""Amount of either that a remote requests: a node that offers 1,000 runs out of CPUs first."""
EVALUATOR_CPUS = 1.0
NO_LIMIT = 1 << 31
"""Number of remotes without any request that fit a node."""


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """Resources that one remote, or each of `count` equal ones, requests of its node.

    Attributes:
        role: of the remote.
        cpus: as Ray counts them; a fraction is possible.
        gpus: whole ones.
        resource: custom resource that the node must offer; None: any node will do.
        count: number of such remotes; 0: as many as fit.
    """

    role: Role
    cpus: float
    gpus: int = 0
    resource: str | None = None
    count: int = 1

    def bundle(self) -> dict[str, float]:
        """Amounts by Ray's names of resources, without those that are 0."""
        named = {"CPU": self.cpus, "GPU": float(self.gpus)}
        if self.resource is not None:
            named[self.resource] = SHARE
        return {name: amount for name, amount in named.items() if amount > 0}

    def count_fitting(self, node: Mapping[str, float]) -> int:
        """How many such remotes a node with these resources can hold."""
        shares = [node.get(name, 0.0) / amount for name, amount in self.bundle().items()]
        return math.floor(min([*shares, NO_LIMIT]) + 1e-6)

    def reserve(self, node: MutableMapping[str, float], count: int = 1) -> None:
        """Subtract the resources of `count` such remotes from those that a node has left."""
        for name, amount in self.bundle().items():
            node[name] = node.get(name, 0.0) - count * amount


def resource_requests(
    config: Config, offered: Collection[str], gpus_offered: bool
) -> list[ResourceRequest]:
    """Requests of the parts of a run, in the order in which they are placed.

    `actors.count = "auto"` gives a count of 0.

    Args:
        config: of the run.
        offered: names of the resources that some node offers, or will offer.
        gpus_offered: some node has a GPU.
    """
    learner_nodes = LEARNER_NODES if LEARNER_NODES in offered else None
    actor_nodes = ACTOR_NODES if ACTOR_NODES in offered else None
    learner, placement = config.learner, config.placement
    gpus = _gpus(learner.device, gpus_offered)
    near = learner_nodes if placement.shards == "near" else None
    return [
        ResourceRequest(Role.LEARNER, float(max(1, learner.threads)), gpus, learner_nodes),
        ResourceRequest(Role.SHARD, placement.shard_cpus, 0, near, config.replay.shards),
        ResourceRequest(Role.WEIGHT_STORE, 0.0, 0, learner_nodes),
        ResourceRequest(Role.EVALUATOR, EVALUATOR_CPUS, 0, actor_nodes),
        ResourceRequest(Role.ACTOR, placement.actor_cpus, 0, actor_nodes, config.actors.count),
    ]


def _gpus(device: str, offered: bool) -> int:
    """GPUs of the learner. It sees those it requests, counted from 0: cuda:1 needs two."""
    if device == "auto":
        return int(offered)
    kind, _, index = device.partition(":")
    return (int(index) if index.isdecimal() else 0) + 1 if kind == "cuda" else 0

"""What a run requests of a cluster, and what fits there: arithmetic on node types and snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.config import Config
from common.errors import UserError
from common.parts import LEARNER, PartId, Role, shard
from deploy.resources.packing import NodeGroup, Packing
from deploy.resources.requests import (
    ACTOR_NODES,
    LEARNER_NODES,
    SHARE,
    ResourceRequest,
    resource_requests,
)
from deploy.runtime.head import HEAD, ClusterCapacity, NodeType


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """The nodes of a cluster, all at the same moment.

    Attributes:
        total: resources that each node offers, by its id.
        left: resources that no remote or task holds there.
        places: ids of nodes by the ids of the remotes that the snapshot was taken for and that are
            alive.
    """

    total: Mapping[str, Mapping[str, float]]
    left: Mapping[str, Mapping[str, float]]
    places: Mapping[str, str]

    def of_others(self, node: str, ours: Sequence[ResourceRequest]) -> dict[str, float]:
        """Resources that other runs hold on a node, given the requests of this run there."""
        held = {}
        for name, total in self.total[node].items():
            own = sum(request.bundle().get(name, 0.0) for request in ours)
            taken = total - self.left[node].get(name, 0.0) - own
            held[name] = taken if taken > SHARE / 2 else 0.0
        return held


class ClusterPlan:
    """The requests of a run's parts, and whether and where they fit.

    Attributes:
        fixed: requests of learner and shards, which hold their resources for the whole run.
        evaluator: request of the evaluator.
        actor: request of each actor.
    """

    def __init__(
        self,
        config: Config,
        known: ClusterCapacity,
        live_types: Callable[[], Sequence[NodeType]],
    ) -> None:
        """Compute the requests.

        Args:
            config: of the run.
            known: what the head knows of the cluster's nodes.
            live_types: the nodes that are there now; called only if the head does not know more.
        """
        self._config = config
        self._known = known
        self._live_types = live_types
        offers = [kind.resources for kind in self._types()]
        offered = {name for offer in offers for name, amount in offer.items() if amount > 0}
        if self._may_grow() and known.offers:
            offered |= known.offers
        elif self._may_grow() and offered & {LEARNER_NODES, ACTOR_NODES}:
            # Nodes have roles here; those of the other role may be still to come.
            offered |= {LEARNER_NODES, ACTOR_NODES}
        wanted = resource_requests(config, offered, "GPU" in offered)
        learner, shards, _, self.evaluator, self.actor = wanted
        # The weight store requests nothing and lives with the learner.
        self._evaluators = [self.evaluator] if config.evaluation.every_learner_steps else []
        self.fixed = {LEARNER: learner}
        for index in range(shards.count):
            self.fixed[shard(index)] = replace(shards, count=1)

    @property
    def may_miss_a_gpu(self) -> bool:
        """Whether the learner is on a CPU though a node with a GPU may join later."""
        unknown = self._known.kinds is None and not self._known.offers
        return unknown and self._config.learner.device == "auto" and not self.fixed[LEARNER].gpus

    @property
    def nodes_can_go(self) -> bool:
        """Whether the cluster removes nodes that are empty."""
        return self._known.kinds is not None

    def check(self) -> None:
        """Refuse a run that can never fit.

        Raises:
            UserError: the cluster can never hold the run.
        """
        offers = [kind.resources for kind in self._types()]
        parts = {str(part): request for part, request in self.fixed.items()}
        parts |= {str(request.role): request for request in (*self._evaluators, self.actor)}
        for name, request in parts.items():
            self._check_fits(name, request, offers)
        limit, count = self.max_actors(), self._config.actors.count
        if count and limit is not None and count > limit:
            raise UserError(
                f"actors.count={count}: the cluster can never hold more than {limit} beside "
                f"learner, shards and evaluator (each takes placement.actor_cpus="
                f"{self._config.placement.actor_cpus:g})"
            )

    def max_actors(self) -> int | None:
        """Largest number of actors that can ever fit beside the other parts; None: unknown."""
        if self._may_grow():
            return None
        types = self._types()
        total = sum(kind.count for kind in types)
        most = total if self._known.kinds is None else self._known.nodes or total
        # If not all nodes can be there at once, all but the head start only when they are needed.
        groups = [
            NodeGroup(
                str(index),
                kind.resources,
                kind.count if most >= total else min(kind.count, int(index == 0)),
                kind.count,
            )
            for index, kind in enumerate(types)
        ]
        packing = Packing(groups, most)
        fitting = self.actor.count_fitting
        for request in [*self.fixed.values(), *self._evaluators]:
            packing.place(  # where it takes the least room from actors
                request,
                1,
                node_order=lambda node: fitting(node.left),
                group_order=lambda group: fitting(group.resources),
            )
        return packing.place(self.actor, group_order=lambda group: -fitting(group.resources))

    def capacity(
        self,
        snapshot: ClusterSnapshot,
        env_workers: Mapping[str, PartId],
        fixed_nodes: Mapping[PartId, str],
        starting: int,
    ) -> int:
        """Number of actors that fit beside this run's other parts and the load of other runs.

        Nodes that can be started count as if they were there, if the head knows them.

        Args:
            snapshot: of the cluster.
            env_workers: actors and evaluator, by the ids of their remotes.
            fixed_nodes: nodes of learner and shards.
            starting: see `Runtime.capacity`.
        """
        ours = self._ours(snapshot, env_workers, fixed_nodes)
        groups = [NodeGroup(node, total, 1, 1) for node, total in snapshot.total.items()]
        packing = Packing(groups, len(groups))
        for node in packing.nodes:
            for request in ours[node.group.name]:
                if request.role is not Role.ACTOR:
                    request.reserve(node.left)
        for request in self._evaluators:
            if not any(request in held for held in ours.values()):
                packing.place(request, 1)  # it is still to come
        most, fewer = 0, 0
        for node in packing.nodes:
            before = max(0, self.actor.count_fitting(node.left))
            for name, amount in snapshot.of_others(node.group.name, ours[node.group.name]).items():
                node.left[name] -= amount
            most += before
            fewer += before - max(0, self.actor.count_fitting(node.left))
        if self._known.kinds is not None:
            most = self.max_actors() or 0
        # Actors that are starting may hold resources that seem to belong to other runs.
        return max(1, most - max(0, fewer - starting))

    def consolidate(
        self,
        snapshot: ClusterSnapshot,
        env_workers: Mapping[str, PartId],
        fixed_nodes: Mapping[PartId, str],
    ) -> tuple[str, str] | None:
        """The actor to move so that its node becomes empty, and the node to move it to.

        Args:
            snapshot: of the cluster.
            env_workers: actors and evaluator, by the ids of their remotes.
            fixed_nodes: nodes of learner and shards.

        Returns:
            The id of the actor's remote and the id of the other node; None: no actor should move.
        """
        ours, actors = self._ours(snapshot, env_workers, fixed_nodes), {}
        for node in snapshot.total:
            others = snapshot.of_others(node, ours[node]).values()
            remotes = [remote for remote, place in snapshot.places.items() if place == node]
            # Only a node with nothing but our actors can become empty.
            lone = all(request.role is Role.ACTOR for request in ours[node]) and not any(others)
            if remotes and lone and not snapshot.total[node].get(HEAD):
                actors[node] = remotes
        if not actors:
            return None
        emptied = min(actors, key=lambda node: len(actors[node]))
        room = {
            node: self.actor.count_fitting(left)
            for node, left in snapshot.left.items()
            if node != emptied and (ours.get(node) or any(snapshot.of_others(node, []).values()))
        }
        if sum(room.values()) < len(actors[emptied]):
            return None
        goal = min((node for node in room if room[node]), key=lambda node: room[node])
        return actors[emptied][0], goal

    def fixed_in_words(self) -> str:
        """Learner and shards with their requests, for a message."""
        return "; ".join(f"{part} ({_amounts(request)})" for part, request in self.fixed.items())

    def _ours(
        self,
        snapshot: ClusterSnapshot,
        env_workers: Mapping[str, PartId],
        fixed_nodes: Mapping[PartId, str],
    ) -> dict[str, list[ResourceRequest]]:
        """Requests that this run's parts hold, by the ids of nodes."""
        ours: dict[str, list[ResourceRequest]] = {node: [] for node in snapshot.total}
        for part, node in fixed_nodes.items():
            ours.get(node, []).append(self.fixed[part])
        for remote, node in snapshot.places.items():
            evaluates = env_workers[remote].role is Role.EVALUATOR
            ours.get(node, []).append(self.evaluator if evaluates else self.actor)
        return ours

    def _types(self) -> Sequence[NodeType]:
        """Types of all nodes that are there or may come."""
        return self._live_types() if self._known.kinds is None else self._known.kinds

    def _may_grow(self) -> bool:
        """Whether nodes of unknown types may join."""
        if self._known.kinds is not None:
            return False
        return self._known.nodes is None or len(self._types()) < self._known.nodes

    def _check_fits(
        self, name: str, request: ResourceRequest, offers: Sequence[Mapping[str, float]]
    ) -> None:
        if self._may_grow() or any(request.count_fitting(offer) for offer in offers):
            return
        missing = [
            resource
            for resource, amount in request.bundle().items()
            if not any(offer.get(resource, 0.0) >= amount for offer in offers)
        ]
        lacking = f"; no node has enough {', '.join(missing)}" if missing else ""
        raise UserError(
            f"{name} wants {_amounts(request)}: the cluster has no node that can hold it, "
            f"and starts none{lacking}"
        )


def _amounts(request: ResourceRequest) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in request.bundle().items())

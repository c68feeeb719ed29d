"""The nodes of a cluster that the remotes of a run go to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from common.config import Config
from common.errors import UserError
from common.handles import Future, Mapped, Ready
from common.parts import EVALUATOR, LEARNER, PartId, Role
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES, ResourceRequest
from deploy.runtime import ray_private
from deploy.runtime.head import HEAD, NodeType, ask_head
from deploy.runtime.interface import EventSink
from deploy.runtime.plan import ClusterPlan, ClusterSnapshot
from deploy.runtime.ray_actor import RemoteFuture
from deploy.runtime.ray_runtime import QUERY

POLL_S = 1.0
"""Poll interval while the run waits for nodes."""
REMIND_EVERY_S = 30.0
"""Interval of the messages while the run waits for nodes."""
RESOURCES = ("CPU", "GPU", LEARNER_NODES, ACTOR_NODES, HEAD)
"""Resources that placement depends on."""


class Cluster:
    """Learner and shards in one placement group, actors spread around it."""

    autoscaling = True

    def __init__(self, config: Config, events: EventSink) -> None:
        """Reserve the resources of learner and shards; waits for nodes that are still to come.

        Args:
            config: of the run.
            events: receives messages while the run waits.

        Raises:
            UserError: the cluster can never hold the run, or has no room within `placement.wait_s`.
        """
        known = ask_head()
        if known.remark:
            events.notify(known.remark)
        self.plan = ClusterPlan(config, known, live_types)
        self._group: Any = None
        self._goals: dict[PartId, str] = {}  # nodes for the actors that move
        if self.plan.may_miss_a_gpu:
            events.notify(
                "learning is on the CPU: no node has a GPU; if one is to join, start the run after "
                "it has joined"
            )
        self.plan.check()
        self._reserve(config, events)

    def options(self, part: PartId | None) -> Mapping[str, Any]:
        """Ray's options for a part's remote; None: for a short task of the driver's own."""
        if part is not None and part in self.plan.fixed:
            request = self.plan.fixed[part]
            return {**_options(request), "scheduling_strategy": self._bundle_of(part)}
        if part is not None and part.role is Role.ACTOR:
            goal = self._goals.pop(part, None)
            where = "SPREAD" if goal is None else ray_private.prefer_node(goal)
            return {**_options(self.plan.actor), "scheduling_strategy": where}
        if part == EVALUATOR:
            return _options(self.plan.evaluator)
        # All others request nothing and live with the learner, whose node is no spot node.
        return {"num_cpus": 0, "scheduling_strategy": self._bundle_of(LEARNER)}

    def capacity(self, env_workers: Mapping[str, PartId], starting: int) -> Future[int]:
        """Number of actors that fit beside this run's other parts and the load of other runs.

        Args:
            env_workers: actors and evaluator, by the ids of their remotes.
            starting: see `Runtime.capacity`.
        """
        return Mapped(
            self._snapshot(env_workers),
            lambda snapshot: self.plan.capacity(
                snapshot, env_workers, self._fixed_nodes(), starting
            ),
        )

    def max_actors(self) -> int | None:
        """Largest number of actors that can ever fit; None: unknown."""
        return self.plan.max_actors()

    def consolidate(self, env_workers: Mapping[str, PartId]) -> Future[str | None]:
        """The id of the remote to move (see `Runtime.consolidate`)."""
        if not self.plan.nodes_can_go:
            return Ready(None)
        return Mapped(self._snapshot(env_workers), partial(self._move, env_workers))

    def place_next(self, part: PartId, node_id: str) -> None:
        """Have the next incarnation of an actor go to that node, if the node has room then."""
        self._goals[part] = node_id

    def free(self) -> None:
        """Release the resources of learner and shards."""
        from ray.util import remove_placement_group

        group, self._group = self._group, None
        if group is not None:
            # If the connection is lost, the group is gone too. The reason why the run ends counts.
            with suppress(Exception):
                remove_placement_group(group)

    def _bundle_of(self, part: PartId) -> Any:
        """The scheduling strategy for the reserved resources of a part."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return PlacementGroupSchedulingStrategy(self._group, list(self.plan.fixed).index(part))

    def _move(self, env_workers: Mapping[str, PartId], snapshot: ClusterSnapshot) -> str | None:
        found = self.plan.consolidate(snapshot, env_workers, self._fixed_nodes())
        if found is None:
            return None
        remote, node = found
        self.place_next(env_workers[remote], node)
        return remote

    def _snapshot(self, env_workers: Mapping[str, PartId]) -> Future[ClusterSnapshot]:
        import ray

        task = ray.remote(max_retries=0)(take_snapshot).options(**self.options(None))
        return RemoteFuture(task.remote(list(env_workers)), QUERY)

    def _fixed_nodes(self) -> dict[PartId, str]:
        """Ids of the nodes of learner and shards."""
        from ray.util import placement_group_table

        nodes = placement_group_table(self._group).get("bundles_to_node_id", {})
        parts = list(self.plan.fixed)
        return {parts[int(bundle)]: node for bundle, node in nodes.items()}

    def _reserve(self, config: Config, events: EventSink) -> None:
        from ray.util import placement_group

        strategy = "PACK" if config.placement.shards == "near" else "SPREAD"
        bundles = [request.bundle() or {"CPU": 0.001} for request in self.plan.fixed.values()]
        # Without a name: two runs may share a cluster, and names of groups are unique.
        self._group = placement_group(bundles, strategy=strategy)
        begin = reminded = time.monotonic()
        limit_s = config.placement.wait_s
        try:
            while not self._group.wait(POLL_S):
                now = time.monotonic()
                if now - begin > limit_s:
                    raise UserError(
                        f"no room for {self.plan.fixed_in_words()} within placement.wait_s="
                        f"{limit_s:g}: are the nodes starting, or does another run hold them?"
                    )
                if now - reminded > REMIND_EVERY_S or reminded == begin:
                    words = self.plan.fixed_in_words()
                    events.notify(f"waiting for nodes with room for {words} …")
                    reminded = now
        except BaseException:
            self.free()
            raise


def live_types() -> Sequence[NodeType]:
    """The nodes of the cluster that are there now, each as a type of its own."""
    import ray

    return [NodeType(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]


def take_snapshot(remotes: Sequence[str]) -> ClusterSnapshot:
    """The nodes of the cluster and the places of those remotes.

    Runs as a task on the cluster: the driver may be a client outside, which Ray tells less.
    """
    import ray

    places = ray_private.nodes_of(remotes)
    left = ray_private.resources_left()
    total = {
        node["NodeID"]: {name: node["Resources"].get(name, 0.0) for name in RESOURCES}
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] in left
    }
    return ClusterSnapshot(total, left, places)


def _options(request: ResourceRequest) -> dict[str, Any]:
    resources = {k: v for k, v in request.bundle().items() if k not in ("CPU", "GPU")}
    return {"num_cpus": request.cpus, "num_gpus": request.gpus, "resources": resources}

"""Packing remotes onto nodes: the only bin packer, for a live cluster and for a cluster file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.parts import Role
from deploy.resources.requests import NO_LIMIT, ResourceRequest


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that are alike.

    Attributes:
        name: of the group.
        resources: amounts that each node offers.
        least: nodes that are always there.
        most: nodes that there can be.
    """

    name: str
    resources: Mapping[str, float]
    least: int
    most: int


@dataclass(slots=True, eq=False)
class PackedNode:
    """One node and the remotes on it.

    Attributes:
        group: of the node.
        left: resources that no remote holds.
        held: number of remotes by role.
    """

    group: NodeGroup
    left: dict[str, float]
    held: Counter[Role] = field(default_factory=Counter)

    def hold(self, request: ResourceRequest, limit: int) -> int:
        """Place remotes here, at most `limit`; returns how many fit."""
        count = min(limit, request.count_fitting(self.left))
        if count <= 0:
            return 0
        request.reserve(self.left, count)
        self.held[request.role] += count
        return count


class Packing:
    """Nodes that fill up, remote by remote.

    Attributes:
        nodes: all that are there, with what they hold.
    """

    def __init__(self, groups: Sequence[NodeGroup], max_nodes: int) -> None:
        """Only the nodes that are always there, all of them empty.

        Args:
            groups: of nodes, in the order in which they count as equally good.
            max_nodes: nodes of all groups together.
        """
        self._groups = groups
        self._max_nodes = max_nodes
        self._started = {group.name: group.least for group in groups}
        self.nodes = [_empty(group) for group in groups for _ in range(group.least)]

    def place(
        self,
        request: ResourceRequest,
        limit: int = NO_LIMIT,
        *,
        node_order: Callable[[PackedNode], Any] = lambda node: 0,
        group_order: Callable[[NodeGroup], Any] = lambda group: 0,
    ) -> int:
        """Place remotes of one kind: on nodes that are there, then on new ones.

        Args:
            request: of each remote.
            limit: how many, at most.
            node_order: sort key; nodes with lower values fill first.
            group_order: sort key; a new node is of the group with the lowest value.

        Returns:
            How many found a place.
        """
        placed = 0
        for node in sorted(self.nodes, key=node_order):
            placed += node.hold(request, limit - placed)
        able = [group for group in self._groups if request.count_fitting(group.resources)]
        able.sort(key=group_order)
        while placed < limit and (group := self._next(able)) is not None:
            node = _empty(group)
            self.nodes.append(node)
            self._started[group.name] += 1
            placed += node.hold(request, limit - placed)
        return placed

    def _next(self, able: Sequence[NodeGroup]) -> NodeGroup | None:
        """The first group that may have one more node."""
        if len(self.nodes) >= self._max_nodes:
            return None
        return next((group for group in able if self._started[group.name] < group.most), None)


def _empty(group: NodeGroup) -> PackedNode:
    return PackedNode(group, dict(group.resources))

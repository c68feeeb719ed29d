"""What the head of a cluster knows of its nodes, including those that are still to come."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import shorten
from deploy.resources.ray_start_options import start_options
from deploy.runtime.ray_private import kubernetes_resource, ray_cluster_to_file

BOOTSTRAP = "ray_bootstrap_config.yaml"
"""The cluster file in the head's home folder, where `ray up` leaves it."""
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
HEAD = "node:__internal_head__"
"""Ray's resource that the head alone offers."""
HEAD_S = 120.0
"""Time limit for the head's answer: its first task may have to unpack our code."""


@dataclass(frozen=True, slots=True)
class NodeType:
    """Nodes that are alike: the resources of each, and how many there can be."""

    resources: Mapping[str, float]
    count: int


@dataclass(frozen=True, slots=True)
class ClusterCapacity:
    """Nodes that a cluster can have, as far as its head knows.

    Attributes:
        kinds: node types, the head's first; None: only the nodes that are there now are known.
        nodes: limit of all types together; None: unknown.
        offers: names of the resources of nodes to come, where their number is unknown.
        remark: a message for the user; empty: none.
    """

    kinds: tuple[NodeType, ...] | None
    nodes: int | None
    offers: frozenset[str] = frozenset()
    remark: str = ""


def ask_head() -> ClusterCapacity:
    """The knowledge of the head, asked in a task there: the driver may live elsewhere.

    Raises:
        GetTimeoutError: the head does not answer within `HEAD_S`.
    """
    import ray

    task = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=0)(known_nodes)
    known: ClusterCapacity = ray.get(task.remote(), timeout=HEAD_S)
    return known


def known_nodes(home: Path | None = None) -> ClusterCapacity:
    """Nodes of the cluster whose head this machine is, from its cluster file or from Kubernetes.

    Args:
        home: folder in which `ray up` left the file; by default the user's.
    """
    import yaml

    path = (home or Path.home()) / BOOTSTRAP
    if not path.is_file():
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            return _kubernetes_nodes()
        return ClusterCapacity(None, 0)  # started by hand: no other node will come
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["provider"]["type"] == "local":
            return ClusterCapacity(
                None, 1 + len(document["provider"]["worker_ips"]), _own_offers(document)
            )
        return _kinds_of(document)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return ClusterCapacity(None, None)  # an unreadable file is not an error of the run


def _kinds_of(document: Mapping[str, Any]) -> ClusterCapacity:
    """Node types in a file of `ray up`, as Ray completed it."""
    head, most = document["head_node_type"], document["max_workers"] + 1
    kinds: list[NodeType] = []
    for name, node_type in document["available_node_types"].items():
        resources = {k: float(v) for k, v in (node_type.get("resources") or {}).items()}
        count = node_type.get("max_workers", 0) + (name == head)
        kinds.insert(0 if name == head else len(kinds), NodeType(resources, min(count, most)))
    return ClusterCapacity(tuple(kinds), most)


def _own_offers(document: Mapping[str, Any]) -> frozenset[str]:
    """Resources that the user's own machines will offer, as their `ray start` commands say."""
    offers = set()
    for role in ("head", "worker"):
        options = start_options(document.get(f"{role}_start_ray_commands") or ())
        offered = json.loads(options.get("--resources", "{}"))
        offered["GPU"] = float(options.get("--num-gpus", 0))
        offers |= {name for name, amount in offered.items() if amount > 0}
    return frozenset(offers)


def _kubernetes_nodes() -> ClusterCapacity:
    """Groups of pods; the head may ask Kubernetes, as Ray's autoscaler does there."""
    try:
        namespace = os.environ.get("RAY_CLUSTER_NAMESPACE") or POD_NAMESPACE.read_text().strip()
        path = f"rayclusters/{os.environ['RAY_CLUSTER_NAME']}"
        resource = kubernetes_resource(namespace, path)
        if resource["spec"].get("enableInTreeAutoscaling") is not True:
            for group in resource["spec"]["workerGroupSpecs"]:  # no more pods will start
                group["minReplicas"] = group["maxReplicas"] = group.get("replicas", 1)
        return _kinds_of(ray_cluster_to_file(resource))
    except Exception as error:  # of the network, of Kubernetes, or any of Ray's
        return ClusterCapacity(
            None,
            None,
            remark=f"Kubernetes does not tell which nodes may come ({type(error).__name__}: "
            f"{shorten(error)}); only the nodes that are there count",
        )

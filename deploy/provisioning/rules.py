"""Rules for the cluster file itself: safety, roles, scaling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from common.errors import shorten
from common.suggestion import closest
from deploy.provisioning.aws_rules import find_on_aws
from deploy.provisioning.azure_rules import find_on_azure
from deploy.provisioning.cluster_file import (
    KUBERAY,
    LOCAL,
    MAX_NODES,
    ClusterFile,
    NodeType,
    get_nested,
    pod_specs,
)
from deploy.provisioning.command_rules import find_start_mistakes
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.gcp_rules import find_on_gcp
from deploy.provisioning.iam_rules import find_wide_roles
from deploy.provisioning.kuberay_rules import (
    find_bare_images,
    find_field_mistakes,
    find_pod_resources,
)
from deploy.provisioning.kubernetes_rules import STOP_WAIT_S, job_rules, pod_rules
from deploy.provisioning.node_fields import find_unknown_provider_keys
from deploy.provisioning.placeholders import find_placeholders
from deploy.provisioning.setup_rules import find_setup_mistakes
from deploy.provisioning.version_rules import find_image_versions, find_versions
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES

MAX_IDLE_MINUTES = 60
MAX_OF_A_RULE = 200
"""Findings of one rule: a file of a thousand faults is not worth the time of more."""
SSH_PORT = 22
WORLD = ("0.0.0.0/0", "::/0")
LOCAL_KEYS = (
    "head_ip", "worker_ips", "external_head_ip", "coordinator_address", "list_of_node_ips",
)  # fmt: skip
"""Of `provider`, read by Ray 2.60 (ray/autoscaler/_private/local)."""
ON_CLOUD = {"aws": find_on_aws, "azure": find_on_azure, "gcp": find_on_gcp}


def find_mistakes(cluster: ClusterFile) -> Iterator[Finding]:
    """Every fault of the file that is one on any machine."""
    if cluster.provider == KUBERAY:
        rules: tuple[Callable[[ClusterFile], Iterator[Finding]], ...] = (
            *(find_field_mistakes, find_pod_resources, find_bare_images, find_image_versions),
            *(_kubernetes_security, _kubernetes_jobs),
        )
    else:
        on_cloud = ON_CLOUD.get(cluster.provider, _own_machines)
        rules = (find_start_mistakes, _ports, find_setup_mistakes, find_versions, on_cloud)
    everywhere = (_roles, _scaling, find_wide_roles)
    for rule in (_duplicates, *rules, find_placeholders, *everywhere):
        yield from _bounded(rule(cluster))


def _bounded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The first of these findings, and a line that says if there are more."""
    last = None
    for last in islice(findings, MAX_OF_A_RULE):
        yield last
    if last is not None and next(findings, None) is not None:
        yield warning(last.key, None, "is not the last of its kind: correct these, check again")


def _own_machines(cluster: ClusterFile) -> Iterator[Finding]:
    yield from find_unknown_provider_keys(cluster.values["provider"], LOCAL_KEYS)


def _duplicates(cluster: ClusterFile) -> Iterator[Finding]:
    """Keys that are there twice."""
    last = "Kubernetes refuses the file" if cluster.provider == KUBERAY else "Ray takes the last"
    for key in cluster.duplicates:
        first, again = key.lines
        yield error(
            key.name, None, f"is there twice, in lines {first} and {again}; {last}: remove one"
        )


def _ports(cluster: ClusterFile) -> Iterator[Finding]:
    """Ports that are open to the world. On Azure, Ray itself opens SSH only."""
    provider = cluster.values["provider"]
    if cluster.provider == "aws":
        rules = get_nested(provider, "security_group", "IpPermissions") or []
        for index, rule in enumerate(rules):
            networks = [get_nested(entry, "CidrIp") for entry in _entries(rule, "IpRanges")]
            networks += [get_nested(entry, "CidrIpv6") for entry in _entries(rule, "Ipv6Ranges")]
            ports = get_nested(rule, "FromPort"), get_nested(rule, "ToPort")
            if ports != (SSH_PORT, SSH_PORT):
                for network in networks:
                    if network in WORLD:
                        yield error(
                            f"provider.security_group.IpPermissions.{index}",
                            f"{_span(*ports)} from {network}",
                            f"open to the world: only SSH ({SSH_PORT}) may be",
                        )
    if cluster.provider == "gcp":
        for name, node_type in cluster.values["available_node_types"].items():
            config = node_type["node_config"]
            tags = get_nested(config, "tags", "items") or []
            for tag in tags if isinstance(tags, list) else [tags]:
                if tag in ("http-server", "https-server"):
                    yield error(
                        f"available_node_types.{name}.node_config.tags",
                        tag,
                        f"open to the world: only SSH ({SSH_PORT}) may be",
                    )
            if "networkInterfaces" not in config:
                yield warning(
                    f"available_node_types.{name}.node_config.networkInterfaces",
                    None,
                    "is missing: Ray's default network may let in more than SSH; "
                    "docs/clusters.md makes one that does not",
                )


def _entries(rule: Any, key: str) -> list[Any]:
    entries = get_nested(rule, key)
    return entries if isinstance(entries, list) else []


def _span(first: Any, last: Any) -> str:
    if first is None or first == -1:
        return "all ports"
    return f"port {first}" if first == last else f"ports {first}-{last}"


def _roles(cluster: ClusterFile) -> Iterator[Finding]:
    """Nodes for the learner and for actors, and the resources that a node offers."""
    nodes = cluster.nodes
    offered = frozenset().union(*(node.offers for node in nodes if node.most))
    for role in (LEARNER_NODES, ACTOR_NODES):
        if role not in offered:
            text = f"no node type offers {role}: its parts run on any node with room"
            near = closest(role, offered - {LEARNER_NODES, ACTOR_NODES})
            meant = f"; did you mean {role} by {shorten(near)}?" if near else ""
            yield warning("resources", None, text + meant)
    head = nodes[0]
    actors_follow_cpus = ACTOR_NODES not in offered and (head.cpus or 0) > 0
    if ACTOR_NODES in head.offers or actors_follow_cpus:
        key, value = _resource_of(cluster, head, ACTOR_NODES if not actors_follow_cpus else "CPU")
        yield warning(key, value, "actors would run on the head, and slow down Ray's own processes")
    for node in nodes:
        if node.cpus is None:
            key, _ = _resource_of(cluster, node, "CPU")
            yield error(key, None, "is missing: must state the amount that a node offers")


def _resource_of(cluster: ClusterFile, node: NodeType, name: str) -> tuple[str, object]:
    """The key that states how much of a resource a node offers, and the amount."""
    if cluster.provider == LOCAL:
        role = "head" if node.head else "worker"
        option = "--num-cpus" if name == "CPU" else f"--resources {name}"
        return f"{role}_start_ray_commands: {option}", node.cpus if name == "CPU" else "1 or more"
    if cluster.provider == KUBERAY:
        return f"group {node.name}: {name}", node.cpus if name == "CPU" else "1 or more"
    resources = cluster.values["available_node_types"][node.name]["resources"]
    return f"available_node_types.{node.name}.resources.{name}", resources.get(name)


def _scaling(cluster: ClusterFile) -> Iterator[Finding]:
    """Node counts and idle times with which idle nodes do not stop."""
    values = cluster.values
    if cluster.provider == LOCAL:
        workers = cluster.nodes[1]
        hosts = len(values["provider"].get("worker_ips") or ())
        if workers.least < hosts:
            yield warning(
                "min_workers",
                workers.least,
                f"must be {hosts}, one for each of worker_ips: Ray would start no more",
            )
        return
    for node in cluster.nodes[1:]:
        if cluster.provider == KUBERAY and node.most >= MAX_NODES:
            advice = "is missing: must be the most pods of the group, or nothing bounds its costs"
            yield warning(f"{node.name}.maxReplicas", None, advice)
        if 0 < node.least == node.most:
            low, high = (
                ("minReplicas", "maxReplicas")
                if cluster.provider == KUBERAY
                else ("min_workers", "max_workers")
            )
            yield warning(
                f"{node.name}.{low}",
                node.least,
                f"never scales down: must be below {high}={node.most}",
            )
    if cluster.provider == KUBERAY:
        if values.get("enableInTreeAutoscaling") is not True:
            yield error(
                "enableInTreeAutoscaling",
                values.get("enableInTreeAutoscaling"),
                "must be true, or Ray starts and stops no node",
            )
        idle_s = get_nested(values, "autoscalerOptions", "idleTimeoutSeconds")
        key, minutes = "autoscalerOptions.idleTimeoutSeconds", 1 if idle_s is None else idle_s / 60
        value: object = idle_s
    else:
        key = "idle_timeout_minutes"
        value = minutes = values[key]
    if not 0 < minutes <= MAX_IDLE_MINUTES:
        unit = 60 if cluster.provider == KUBERAY else 1
        why = "idle nodes keep running" if minutes > 0 else "nodes stop before they are used"
        yield warning(key, value, f"{why}: must be between {unit} and {MAX_IDLE_MINUTES * unit}")


def _kubernetes_security(cluster: ClusterFile) -> Iterator[Finding]:
    spec = cluster.values
    mode = get_nested(spec, "authOptions", "mode")
    if mode != "token":
        yield error(
            "authOptions.mode",
            mode or "",
            "must be token, or any pod that reaches a port can run code",
        )
    head = spec["headGroupSpec"]
    for key, service in (
        ("headGroupSpec.serviceType", head.get("serviceType")),
        ("headGroupSpec.headService.spec.type", get_nested(head, "headService", "spec", "type")),
    ):
        if service in ("LoadBalancer", "NodePort"):
            yield error(key, service, "opens the cluster to the world: must be ClusterIP")
    if head.get("enableIngress") is True:
        yield error(
            "headGroupSpec.enableIngress", True, "opens the cluster to the world: must be false"
        )
    for key, pod in pod_specs(spec):
        container = pod["containers"][0]
        if not any(
            get_nested(place, "securityContext", "runAsNonRoot") is True
            for place in (pod, container)
        ):
            yield warning(f"{key}.securityContext.runAsNonRoot", None, "is missing: must be true")
    yield from pod_rules(spec)
    environment = _entries(head["template"]["spec"]["containers"][0], "env")
    wait = next(
        (
            str(get_nested(entry, "value"))
            for entry in environment
            if get_nested(entry, "name") == "RAY_JOB_STOP_WAIT_TIME_S"
        ),
        "",
    )
    if not wait.isdigit() or int(wait) < STOP_WAIT_S:
        yield warning(
            "headGroupSpec: RAY_JOB_STOP_WAIT_TIME_S",
            wait,
            f"must be at least {STOP_WAIT_S}, or Ray kills a run while it saves",
        )


def _kubernetes_jobs(cluster: ClusterFile) -> Iterator[Finding]:
    """Jobs that would train in the head's pod alone, keep machines, or not resume."""
    yield from job_rules(cluster.job_spec)
    for command in cluster.jobs:
        trains = re.search(r"(raydqn|-m deploy)\s+(train|resume)\b", command)
        if trains and not re.search(r"--(address\b|inline\b)", command):
            yield error(
                "RayJob entrypoint",
                command,
                "trains in the head's pod alone: must have --address auto",
            )

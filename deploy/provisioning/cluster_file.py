"""Reading a cluster file, of `ray up` or of KubeRay, without network and cloud."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import UserError, first_line, shorten
from common.suggestion import suggest
from common.text import counted
from deploy.provisioning.field_table import field_table, misfits
from deploy.provisioning.findings import short
from deploy.provisioning.ray_up_schema import LOCAL as LOCAL
from deploy.provisioning.ray_up_schema import check_schema
from deploy.provisioning.yaml_file import DuplicateKey, read_yaml
from deploy.resources.ray_start_options import start_options
from deploy.runtime.quiet import quiet
from deploy.runtime.ray_private import (
    complete_cluster_file,
    own_machines_type,
    ray_cluster_to_file,
)

KUBERAY = "kuberay"
PROVIDERS = ("aws", "azure", "gcp", LOCAL)
KEY_OF_MACHINE = {
    "aws": ("InstanceType",),
    "azure": ("azure_arm_parameters", "vmSize"),
    "gcp": ("machineType",),
}
HOLDS_CLUSTER = {
    "RayJob": ("rayClusterSpec",),
    "RayService": ("rayClusterConfig",),
    "RayCronJob": ("jobTemplate", "rayClusterSpec"),
}
"""Where an object of KubeRay holds the specification of a RayCluster, by its kind."""
MAX_NODES = 100_000  # of one type: more is a typing mistake


@dataclass(frozen=True)
class NodeType:
    """Nodes that are alike."""

    name: str
    machine: str  # the cloud's name of the machine type, which sets the price
    spot: bool
    head: bool
    least: int  # nodes
    most: int  # nodes
    cpus: int | None  # of each; None: the file does not say
    gpus: int
    offers: frozenset[str]  # custom resources


@dataclass(frozen=True)
class ClusterFile:
    """The content of a cluster file, with Ray's defaults filled in."""

    path: Path
    provider: str  # one of PROVIDERS, or KUBERAY
    name: str
    values: Mapping[str, Any]  # of the whole file; of the RayCluster's spec with KubeRay
    nodes: tuple[NodeType, ...]  # the head first
    max_workers: int  # nodes beside the head, of all types together
    jobs: tuple[str, ...] = ()  # commands of the jobs in the same file, with KubeRay
    job_spec: Mapping[str, Any] = field(default_factory=dict)  # of the first RayJob there
    documents: tuple[Mapping[str, Any], ...] = ()  # of the file, as they are written
    duplicates: tuple[DuplicateKey, ...] = ()

    def container_image(self, node_type: str) -> str:
        """The image of the containers of a node type, with `ray up`; empty without containers."""
        docker = self.values.get("docker") or {}
        if node_type == self.values.get("head_node_type"):
            return str(docker.get("head_image") or docker.get("image") or "")
        own = get_nested(self.values, "available_node_types", node_type, "docker", "worker_image")
        return str(own or docker.get("worker_image") or docker.get("image") or "")


def load_cluster(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises:
        UserError: it cannot be read, is no cluster file, or Ray would refuse it.
    """
    documents, duplicates = read_yaml(path)
    documents = [document for document in documents if document is not None]
    if not documents:
        raise UserError(f"{path}: is empty: must be a cluster file of `ray up` or KubeRay")
    for document in documents:
        if not isinstance(document, dict):
            kind = "a list" if isinstance(document, list) else "a single value"
            raise UserError(f"{path}: is {kind}: must have keys, such as cluster_name")
    try:
        if any("apiVersion" in one and "kind" in one for one in documents):
            cluster = _kuberay(path, documents)
        elif len(documents) > 1:
            raise UserError(f"has {counted(len(documents), 'document')}: `ray up` takes one")
        else:
            cluster = _ray_up(path, deepcopy(documents[0]))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return replace(cluster, documents=tuple(documents), duplicates=tuple(duplicates))


def _ray_up(path: Path, values: dict[str, Any]) -> ClusterFile:
    """A file of `ray up`."""
    check_schema(values)
    provider = values["provider"]["type"]
    if provider not in PROVIDERS:
        raise UserError(
            f"provider.type={provider}: must be one of {', '.join(PROVIDERS)}"
            f"{suggest(provider, PROVIDERS)}"
        )
    if provider != LOCAL and "available_node_types" not in values:
        raise UserError("missing key available_node_types: Ray would use node types of its own")
    for target, source in values.get("file_mounts", {}).items():
        if not isinstance(source, str):
            raise UserError(f"file_mounts.{target}={short(source)}: must be a path on this machine")
    for name, node_type in values.get("available_node_types", {}).items():
        for key in ("min_workers", "max_workers"):
            if node_type.get(key, 0) < 0:
                raise UserError(
                    f"available_node_types.{name}.{key}={node_type[key]}: must be at least 0"
                )
    try:
        with quiet():
            values = complete_cluster_file(values)
    except Exception as error:  # Ray reports a mistake by an error of any class
        raise UserError(first_line(error)) from None
    nodes = _own_machines(values) if provider == LOCAL else _cloud_nodes(provider, values)
    return _cluster(path, provider, values["cluster_name"], values, nodes, values["max_workers"])


def _cluster(
    path: Path,
    provider: str,
    name: str,
    values: Mapping[str, Any],
    nodes: list[NodeType],
    max_workers: int,
) -> ClusterFile:
    """The file's content: the head first, every number of nodes checked."""
    for node in nodes:
        if not node.least <= node.most <= MAX_NODES:
            advice = f"must be at least the minimum, {node.least - node.head}"
            if node.most > MAX_NODES:
                advice = f"must be at most {MAX_NODES:,}"
            raise UserError(f"maximum of {node.name}={node.most - node.head}: {advice}")
    nodes.sort(key=lambda node: not node.head)
    return ClusterFile(path, provider, name, values, tuple(nodes), int(max_workers))


def _cloud_nodes(provider: str, values: Mapping[str, Any]) -> list[NodeType]:
    """Node types of a cloud."""
    nodes = []
    for name, node_type in values["available_node_types"].items():
        head = name == values["head_node_type"]
        config, resources = node_type["node_config"], node_type["resources"]
        machine = get_nested(config, *KEY_OF_MACHINE[provider])
        nodes.append(
            NodeType(
                name=name,
                machine=str(machine or "a machine of unknown type"),
                spot=_is_spot(provider, config),
                head=head,
                least=int(node_type["min_workers"]) + head,
                most=int(node_type["max_workers"]) + head,
                cpus=None if "CPU" not in resources else int(resources["CPU"]),
                gpus=int(resources.get("GPU", 0)),
                offers=_custom(resources),
            )
        )
    return nodes


def _is_spot(provider: str, config: Mapping[str, Any]) -> bool:
    if provider == "aws":
        return bool(get_nested(config, "InstanceMarketOptions", "MarketType") == "spot")
    if provider == "azure":
        return bool(get_nested(config, "azure_arm_parameters", "priority") == "Spot")
    scheduling = config.get("scheduling")
    if isinstance(scheduling, list) and scheduling:  # as in Ray's own examples
        scheduling = scheduling[0]
    return (
        get_nested(scheduling, "provisioningModel") == "SPOT"
        or get_nested(scheduling, "preemptible") is True
    )


def _own_machines(values: Mapping[str, Any]) -> list[NodeType]:
    """On-premises machines: the commands that start Ray state their resources."""
    workers = values["available_node_types"][own_machines_type()]
    provider = values["provider"]
    nodes = []
    for head, key in ((True, "head_start_ray_commands"), (False, "worker_start_ray_commands")):
        options = start_options(values[key])
        custom = _custom_option(key, options.get("--resources", "{}"))
        nodes.append(
            NodeType(
                name="head" if head else "workers",
                machine=str(provider.get("head_ip", "own machine")) if head else "own machine",
                spot=False,
                head=head,
                least=1 if head else int(workers["min_workers"]),
                most=1 if head else int(workers["max_workers"]),
                cpus=_number_option(key, options, "--num-cpus"),
                gpus=_number_option(key, options, "--num-gpus") or 0,
                offers=_custom(custom),
            )
        )
    return nodes


def _number_option(key: str, options: Mapping[str, str], name: str) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"{key}: {name}={text}: must be a whole number, not a command")
    return int(text)


def _custom_option(key: str, text: str) -> dict[str, Any]:
    try:
        resources = json.loads(text)
    except ValueError:
        resources = None
    if not isinstance(resources, dict):
        raise UserError(f"{key}: --resources={short(text)}: must be JSON, such as '{{\"a\": 1}}'")
    return resources


def _kuberay(path: Path, documents: list[dict[str, Any]]) -> ClusterFile:
    """A file of KubeRay: its first RayCluster, or the first that another object holds."""
    for document in documents:
        spec, kind = document.get("spec"), str(document.get("kind"))
        if str(document.get("apiVersion")).startswith("cluster.ray.io/"):
            raise UserError(
                f"apiVersion={document['apiVersion']}: of Ray's old operator: must be ray.io/v1, "
                "as in deploy/clusters/kuberay.yaml"
            )
        below = HOLDS_CLUSTER.get(kind, ())
        if kind == "RayCluster" or (below and get_nested(spec, *below) is not None):
            break
    else:
        raise UserError("has no RayCluster: must have one, or a RayJob with a rayClusterSpec")
    spec = get_nested(spec, *below) if below else spec
    where = ".".join(("spec", *below, ""))
    if not isinstance(spec, dict):
        raise UserError(f"{where.rstrip('.')}={short(spec)}: must have keys")
    known = field_table("kuberay").fields("RayCluster")
    for key in spec:
        if key not in known:
            raise UserError(f"unknown key {where}{shorten(key)}{suggest(key, known)}")
    if "headGroupSpec" not in spec:
        raise UserError(f"missing key {where}headGroupSpec")
    name = str(get_nested(document, "metadata", "name") or "raydqn")
    try:
        with quiet():
            derived = ray_cluster_to_file(
                {
                    "metadata": {"name": name, "namespace": "default"},
                    "spec": {**spec, "workerGroupSpecs": list(map(_counted, groups_of(spec)))},
                }
            )
        groups = {"headgroup": spec["headGroupSpec"]}
        groups |= {group["groupName"]: group for group in groups_of(spec)}
        nodes = [
            _pods(group, groups[group], node_type)
            for group, node_type in derived["available_node_types"].items()
        ]
    except Exception as error:  # Ray reports a mistake by an error of any class
        for misfit in misfits(field_table("kuberay"), "RayCluster", spec):  # the probable cause
            line = str(misfit.finding(where.rstrip("."))).partition(": ")[2]
            raise UserError(line) from None
        if isinstance(error, KeyError):
            advice = f"a group has no key {error.args[0]}"
            raise UserError(f"{where.rstrip('.')}: {advice}") from None
        raise UserError(f"{where.rstrip('.')}: not a RayCluster ({first_line(error)})") from None
    specs = [d.get("spec") for d in documents if d.get("kind") == "RayJob"]
    specs += [get_nested(d, "spec", "jobTemplate") for d in documents]
    jobs = [found for found in specs if isinstance(found, dict)]
    commands = tuple(str(job["entrypoint"]) for job in jobs if job.get("entrypoint") is not None)
    cluster = _cluster(path, KUBERAY, name, spec, nodes, derived["max_workers"])
    return replace(cluster, jobs=commands, job_spec=jobs[0] if jobs else {})


def groups_of(spec: Mapping[str, Any]) -> list[Any]:
    """The groups of worker nodes of a RayCluster."""
    return list(spec.get("workerGroupSpecs") or ())


def _counted(group: Any) -> Any:
    """A group with its numbers of pods; KubeRay's own default has no bound."""
    return {"minReplicas": 0, "maxReplicas": MAX_NODES, **group}


def _pods(name: str, group: Mapping[str, Any], node_type: Mapping[str, Any]) -> NodeType:
    """Pods of one group."""
    head, resources, pod = name == "headgroup", node_type["resources"], group["template"]["spec"]
    memory = get_nested(pod["containers"][0], "resources", "limits", "memory")
    selector = json.dumps(pod.get("nodeSelector", {})).lower()
    return NodeType(
        name="head" if head else name,
        machine=f"{'head' if head else name} pod" + (f" of {memory}" if memory else ""),
        spot="spot" in selector or "preemptible" in selector,
        head=head,
        least=int(node_type["min_workers"]) + head,
        most=int(node_type["max_workers"]) + head,
        cpus=resources["CPU"],
        gpus=resources.get("GPU", 0),
        offers=_custom(resources),
    )


def pod_specs(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The pod specification of each group of a RayCluster, after its place in the file."""
    yield "headGroupSpec", spec["headGroupSpec"]["template"]["spec"]
    for group in spec.get("workerGroupSpecs") or ():
        yield f"group {group['groupName']}", group["template"]["spec"]


def _custom(resources: Mapping[str, Any]) -> frozenset[str]:
    """Names of the custom resources with an amount above 0."""
    known = ("CPU", "GPU", "memory", "object_store_memory")
    return frozenset(name for name, amount in resources.items() if amount and name not in known)


def get_nested(value: Any, *keys: str) -> Any:
    """The value at a path of keys; None if the path ends early."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def local_path(name: str) -> Path:
    """A path as Ray reads it: `~` is expanded if that is possible."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ of an unknown user
        return Path(name)

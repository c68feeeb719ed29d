"""`raydqn cluster check`: the faults of a cluster file, and where each part of a run will be.

The check costs nothing: it uses neither network nor cloud.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gymnasium.error import NameNotFound, VersionNotFound

from actors.environments import environment_spec
from common.config import Config
from common.errors import UserError
from common.parts import Role
from common.text import counted, printable
from deploy.provisioning.cluster_file import (
    KUBERAY,
    LOCAL,
    ClusterFile,
    NodeType,
    get_nested,
    load_cluster,
)
from deploy.provisioning.findings import Finding, error, to_do, warning
from deploy.provisioning.local_machine import find_missing
from deploy.provisioning.rules import find_mistakes
from deploy.resources.packing import NodeGroup, Packing
from deploy.resources.requests import NO_LIMIT, ResourceRequest, resource_requests
from deploy.runtime.packaging import (
    comes_with_raydqn,
    is_here,
    module_of,
    named_code,
    travels,
)

EXAMPLE = re.compile(r"\w+://(my-|your-)?bucket(/|$)")
"""The URL of an example bucket."""
ROLE_OF_NODE = {
    "aws": (
        "s3://",
        "IamInstanceProfile",
        r"\bAWS_(ACCESS_KEY_ID|WEB_IDENTITY_TOKEN_FILE|SHARED_CREDENTIALS_FILE)=|/\.aws\b",
    ),
    "gcp": ("gs://", "serviceAccounts", r"\bGOOGLE_APPLICATION_CREDENTIALS="),
}
"""By provider: the scheme of its object store, and two ways to let a node write there: the key of a
role in the node's configuration, and a pattern of credentials in the file."""


@dataclass
class Node:
    """A node that may be started, and the remotes on it by role."""

    type: NodeType
    held: Counter[Role] = field(default_factory=Counter)


@dataclass(frozen=True)
class Report:
    """The result of a check."""

    cluster: ClusterFile
    nodes: list[Node]  # of the run, including idle ones that never stop
    findings: list[Finding]

    @property
    def ready(self) -> bool:
        """Whether the cluster can be started as it is."""
        return all(finding.level == "warning" for finding in self.findings)

    @property
    def errors(self) -> int:
        """Number of findings with which no cluster should be started."""
        return sum(finding.level == "error" for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """The report as text, with names of any characters in one line each."""
        return map(printable, self._lines())

    def _lines(self) -> Iterator[str]:
        cluster = self.cluster
        yield f"{cluster.path}: cluster {cluster.name} on {_place(cluster)}"
        rows = [
            (
                printable(node_type.name),
                _counts(node_type),
                printable(_machine(node_type)),
                self._held(node_type),
            )
            for node_type in cluster.nodes
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            yield f"  {'  '.join([*cells, row[3]])}".rstrip()
        if cluster.provider != LOCAL:
            idle = [(node_type, node_type.least) for node_type in cluster.nodes]
            used = Counter(node.type.name for node in self.nodes)
            run = [(node_type, used[node_type.name]) for node_type in cluster.nodes]
            most = [(node_type, node_type.most) for node_type in cluster.nodes]
            yield f"each hour, idle:     {_sum(idle)}"
            yield f"each hour, this run: {_sum(run)}"
            yield f"each hour, at most:  {_sum(most)}"
            if sum(count for _, count in most) - 1 > cluster.max_workers:
                yield f"                     and no more than {cluster.max_workers} beside the head"
        for finding in self.findings:
            yield str(finding)
        levels = Counter(finding.level for finding in self.findings)
        to_do = f"{levels['to do']} to do, " if levels["to do"] else ""
        yield f"{counted(levels['error'], 'error')}, {to_do}{counted(levels['warning'], 'warning')}"

    def _held(self, node_type: NodeType) -> str:
        """The parts on the nodes of a type."""
        nodes = [node for node in self.nodes if node.type is node_type and node.held]
        held = sum((node.held for node in nodes), Counter[Role]())
        what = ["driver"] if node_type.head else []
        what += [str(role) if count == 1 else counted(count, role) for role, count in held.items()]
        return ", ".join(what) + (f" on {counted(len(nodes), 'node')}" if len(nodes) > 1 else "")


def check_cluster(path: Path, config: Config) -> Report:
    """Compare a cluster file with this machine, this project and a run.

    Args:
        path: of a file for `ray up` or KubeRay.
        config: of the run that will train there.

    Raises:
        UserError: the file is no cluster file.
    """
    cluster = load_cluster(path)
    findings = [*find_missing(cluster), *find_mistakes(cluster)]
    for key, name in named_code(config):
        findings += _find_code(cluster, key, name)
    findings += _try_environment(config)
    findings += _find_storage(config.checkpoint.storage or "")
    nodes: list[Node] = []
    if all(node_type.cpus is not None for node_type in cluster.nodes):
        startable = [node_type for node_type in cluster.nodes if node_type.most]
        offered = frozenset().union(*(node_type.offers for node_type in startable))
        wanted = resource_requests(config, offered, any(node_type.gpus for node_type in startable))
        nodes, missing = place(cluster, wanted)
        findings += [*missing, *_find_far_shards(cluster, nodes, config)]
        findings += _find_spot_shards(nodes, config)
    return Report(cluster, nodes, sorted(findings, key=lambda finding: finding.level))


def place(
    cluster: ClusterFile, wanted: Sequence[ResourceRequest]
) -> tuple[list[Node], list[Finding]]:
    """Place remotes as Ray would: on running nodes, else on new ones.

    Args:
        cluster: of the nodes.
        wanted: in this order; shards go to the learner's node while it has room.

    Returns:
        The nodes with their remotes, and a finding for each kind of remote without room.
    """
    types = {kind.name: kind for kind in cluster.nodes}
    groups = [NodeGroup(k.name, _offers(k), k.least, k.most) for k in cluster.nodes]
    packing = Packing(groups, cluster.max_workers + 1)  # the head is one more
    findings = []
    for request in wanted:
        unfit = _unfit(cluster, request)
        if unfit is not None:
            findings.append(unfit)
            continue
        placed = packing.place(
            request,
            request.count or NO_LIMIT,  # 0: as many as fit
            node_order=lambda node: Role.LEARNER not in node.held,
            # No GPU that the remote does not request, else the largest node.
            group_order=lambda group: (types[group.name].gpus, -(types[group.name].cpus or 0)),
        )
        if placed < max(1, request.count):
            findings.append(_too_many(cluster, request, placed))
    nodes = [Node(types[node.group.name], node.held) for node in packing.nodes]
    shards = [node.held[Role.SHARD] for node in nodes if Role.LEARNER not in node.held]
    if sum(shards) and any(Role.LEARNER in node.held for node in nodes):
        findings.append(
            warning(
                "replay.shards",
                next(d.count for d in wanted if d.role is Role.SHARD),
                f"{sum(shards)} do not fit on the learner's node: batches cross the network",
            )
        )
    return nodes, findings


def _find_storage(storage: str) -> Iterator[Finding]:
    """A storage for checkpoints that is an example, incomplete or relative."""
    if EXAMPLE.match(storage):
        yield to_do("checkpoint.storage", storage, "is an example: put yours")
    if re.fullmatch(r"\w+:///*", storage):
        yield error("checkpoint.storage", storage, "must name a bucket, or a folder")
    if storage and "://" not in storage and not storage.startswith(("/", "~")):
        yield error(
            "checkpoint.storage",
            storage,
            "is in the job's folder, which Ray deletes: must be a URL, or begin with / or ~",
        )


def _find_far_shards(
    cluster: ClusterFile, nodes: Sequence[Node], config: Config
) -> Iterator[Finding]:
    """Shards on nodes that cannot reach the storage of checkpoints."""
    storage = config.checkpoint.storage or ""
    far = next((node.type for node in nodes if node.held[Role.SHARD] and not node.type.head), None)
    if far is None or not config.checkpoint.replay:
        return
    if not storage:
        yield to_do(
            "checkpoint.storage",
            "none",
            f"shards are on {far.name}, the run folder is on the head: must be a URL or a folder "
            "that all nodes share, or checkpoint.replay must be false",
        )
    # Ray gives a role to the head only.
    scheme, key, otherwise = ROLE_OF_NODE.get(cluster.provider, ("", "", ""))
    if scheme and storage.startswith(scheme):
        place = ("available_node_types", far.name, "node_config")
        brought = re.search(otherwise, json.dumps(cluster.values))
        if not brought and key not in get_nested(cluster.values, *place):
            yield to_do(
                ".".join((*place, key)),
                None,
                f"is missing: without a role the node cannot write to {storage}",
            )


def _find_code(cluster: ClusterFile, key: str, name: str) -> Iterator[Finding]:
    """A module of the user's that is not shipped with the job.

    Args:
        cluster: whose nodes need it.
        key: that names it.
        name: `module:Name`, or a name without a module.
    """
    module = module_of(name)
    if not module or comes_with_raydqn(module):
        return
    if cluster.provider == KUBERAY:
        yield warning(key, name, f"pods get no code from here: {module} must be in their image")
        return
    setup = " ".join(cluster.values["head_setup_commands"]).replace("-", "_")
    if not travels(module) and not re.search(rf"\b{re.escape(module)}\b", setup):
        why = "is installed here" if is_here(module) else "is not found here"
        yield warning(
            key,
            name,
            f"{module} {why}, and not shipped: setup_commands must install it",
        )


def _try_environment(config: Config) -> Iterator[Finding]:
    """An environment that cannot be made here, and would probably fail on the nodes, too."""
    module = module_of(config.env.id)
    if module and not is_here(module):
        return
    try:
        environment_spec(config.env)
    except UserError as mistake:
        cause = mistake.__context__  # None: it can be made, but no run can use it
        key, _, rest = str(mistake).partition("=")
        value, _, advice = rest.partition(": ")
        if cause is None or isinstance(cause, (NameNotFound, VersionNotFound)):
            yield error(key, value, advice)
        else:
            yield warning(key, value, f"{advice}; true of this machine: the nodes must have it")


def _find_spot_shards(nodes: Sequence[Node], config: Config) -> Iterator[Finding]:
    """Shards on spot nodes."""
    spread = config.placement.shards == "spread" and any(node.type.spot for node in nodes)
    if spread or any(node.type.spot and node.held[Role.SHARD] for node in nodes):
        yield warning(
            "placement.shards",
            config.placement.shards,
            "shards may be on spot nodes: where one stops, its shards restart from a checkpoint",
        )


def _offers(kind: NodeType) -> dict[str, float]:
    """Resources of a node; the file's amount of a custom resource does not matter."""
    return {"CPU": kind.cpus or 0, "GPU": kind.gpus, **dict.fromkeys(kind.offers, math.inf)}


def _unfit(cluster: ClusterFile, request: ResourceRequest) -> Finding | None:
    """The reason why no node can hold one of these remotes; None if some node can."""
    kinds = [kind for kind in cluster.nodes if kind.most]
    if any(request.count_fitting(_offers(kind)) for kind in kinds):
        return None
    that = ""
    if request.resource is not None:
        kinds = [kind for kind in kinds if request.resource in kind.offers]
        that = f" that offers {request.resource}"
    most_gpus = max((kind.gpus for kind in kinds), default=0)
    if request.gpus > most_gpus:
        has = f"has {'one' if request.gpus == 1 else 'as many'}"
        advice = f"{request.role} needs {counted(request.gpus, 'GPU')}: no node type{that} {has}"
    else:
        advice = (
            f"{request.role} needs {counted(request.cpus, 'CPU')}: no node type{that} has as many"
        )
        if request.gpus:
            advice += f" beside {counted(request.gpus, 'GPU')}"
    return error(_nodes_key(cluster, request), None, advice)


def _too_many(cluster: ClusterFile, request: ResourceRequest, fit: int) -> Finding:
    """More remotes than the cluster can ever hold."""
    key = {Role.ACTOR: "actors.count", Role.SHARD: "replay.shards"}.get(request.role)
    where = f" on nodes that offer {request.resource}" if request.resource else ""
    most = f"more than {counted(fit, request.role)}" if fit else f"any {request.role}"
    return error(
        key or _nodes_key(cluster, request),
        request.count if key else None,
        f"no room{where} for {most}, even with all nodes started",
    )


def _nodes_key(cluster: ClusterFile, request: ResourceRequest) -> str:
    """The key that states the resources of the nodes for such a remote."""
    if cluster.provider == LOCAL:
        role = "head" if request.resource in cluster.nodes[0].offers else "worker"
        return f"{role}_start_ray_commands"
    return (
        "available_node_types" if "available_node_types" in cluster.values else "workerGroupSpecs"
    )


def _place(cluster: ClusterFile) -> str:
    if cluster.provider == LOCAL:
        return "machines of your own"
    provider = cluster.values.get("provider", {})
    region = provider.get("region") or provider.get("location")
    return f"{cluster.provider}, {region}" if region else cluster.provider


def _counts(kind: NodeType) -> str:
    return f"{kind.least}" if kind.least == kind.most else f"{kind.least}–{kind.most}"


def _machine(kind: NodeType) -> str:
    offers = [counted(kind.cpus or 0, "CPU")] + ([counted(kind.gpus, "GPU")] if kind.gpus else [])
    return f"{kind.machine} ({', '.join(offers)}{', spot' if kind.spot else ''})"


def _sum(counts: list[tuple[NodeType, int]]) -> str:
    """The number of nodes by machine type, which sets the price."""
    parts: Counter[str] = Counter()
    for kind, count in counts:
        parts[f"{kind.machine}{' (spot)' if kind.spot else ''}"] += count
    return " + ".join(f"{count} × {machine}" for machine, count in parts.items() if count)

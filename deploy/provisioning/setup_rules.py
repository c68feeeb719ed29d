"""Rules for the commands of a file of `ray up` that install raydqn on the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.provisioning.aws_rules import RAYS_IMAGES
from deploy.provisioning.cluster_file import LOCAL, ClusterFile, get_nested
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.gcp_rules import PUBLIC_IMAGES
from deploy.provisioning.machine_rules import PUBLIC_CONTAINERS

INSTALL = "sh ~/raydqn/source/deploy/clusters/install.sh"
MAY_INSTALL = re.compile(
    r"\braydqn\b|install\.sh\b|\s(-r|--requirement|-e|--editable)\s"
    r"|\binstall\s+(-\S+\s+)*['\"]?(\.|~|/|\$)|\buv\s+(sync|run|pip)\b|\bpoetry\b|\bpixi\b"
    r"|\b(conda|mamba)\s+env\b|\b(ba|z)?sh\s+(-\S+\s+)*[~$./\w-]*\.sh\b|(^|[\s;&])[~.]?/\S+\.sh\b"
    r"|\bansible|\bmake\b|\bdocker\b|\bapptainer\b|\bnix"
)
"""Commands that install raydqn, or that may do so in a way which the file does not show."""


def installs(commands: Sequence[str]) -> bool:
    """Whether one of these commands installs raydqn, or may do so."""
    return any(MAY_INSTALL.search(command) for command in commands)


def find_setup_mistakes(cluster: ClusterFile) -> Iterator[Finding]:
    """Nodes on which no command installs raydqn, and whose image does not hold it either."""
    values = cluster.values
    common = values["initialization_commands"]
    lacking = []
    for node_type, config in _node_types(cluster):
        head = node_type in ("head", values.get("head_node_type"))
        own = config.get("worker_setup_commands")
        commands = values["head_setup_commands"] if head else own or values["worker_setup_commands"]
        if installs([*common, *commands]) or _may_hold(cluster.container_image(node_type)):
            continue
        lacking.append((node_type, _may_be_prepared(cluster, config)))
    if not lacking:
        return
    types = ", ".join(name for name, _ in lacking)
    level = warning if all(prepared for _, prepared in lacking) else error
    unless = "unless its image holds raydqn, " if level is warning else ""
    do = f"must install it, as with `{INSTALL}`, or docker.image must hold it"
    yield level("setup_commands", None, f"no command installs raydqn on {types}: {unless}{do}")


def _node_types(cluster: ClusterFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each node type that may start, with its part of the file."""
    if cluster.provider == LOCAL:
        yield "head", {}
        if cluster.nodes[1].most:
            yield "workers", {}
        return
    for node in cluster.nodes:
        if node.most:
            yield node.name, cluster.values["available_node_types"][node.name]


def _may_hold(image: str) -> bool:
    """Whether an image of containers may hold raydqn: Ray's own do not."""
    return bool(image) and not PUBLIC_CONTAINERS.match(image)


def _may_be_prepared(cluster: ClusterFile, node_type: Mapping[str, Any]) -> bool:
    """Whether the machine has an image of the user's own, or is one."""
    config = node_type.get("node_config") or {}
    if cluster.provider == "aws":
        image = str(config.get("ImageId") or "latest_dlami")
        public = image.lower() == "latest_dlami" or image.startswith("resolve:ssm:/aws/service/")
        return (not public and image not in RAYS_IMAGES.values()) or "LaunchTemplate" in config
    if cluster.provider == "gcp":
        disks = config.get("disks") or []
        images = [str(get_nested(one, "initializeParams", "sourceImage")) for one in disks]
        return not images or not any(
            f"projects/{one}/" in image for one in PUBLIC_IMAGES for image in images
        )
    if cluster.provider == "azure":
        return bool(get_nested(config, "azure_arm_parameters", "imageId"))
    return True

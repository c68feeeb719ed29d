"""Rules for what the nodes may do in their cloud: the head alone starts machines."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.provisioning.cluster_file import ClusterFile, get_nested
from deploy.provisioning.findings import Finding, warning

RAYS_ACCOUNT = "ray-autoscaler-sa-v1@"
"""Google Cloud: the account that Ray creates for the head."""
RAYS_PROFILE = "ray-autoscaler-v1"
"""AWS: the same of the instance profile."""
MAY_START = "may start machines, which only the head must: put a role of its own (docs/clusters.md)"


def find_wide_roles(cluster: ClusterFile) -> Iterator[Finding]:
    """Node types beside the head that have the head's role."""
    types = cluster.values.get("available_node_types") or {}
    head = str(cluster.values.get("head_node_type"))
    of_head = get_nested(types, head, "node_config", "IamInstanceProfile")
    for name, node_type in types.items():
        if name == head:
            continue
        where = f"available_node_types.{name}.node_config"
        profile = get_nested(node_type, "node_config", "IamInstanceProfile")
        if profile is not None and _name(profile) in (RAYS_PROFILE, _name(of_head)):
            yield warning(f"{where}.IamInstanceProfile", profile, MAY_START)
        accounts = get_nested(node_type, "node_config", "serviceAccounts")
        for account in accounts if isinstance(accounts, list) else ():
            email = str(get_nested(account, "email") or "")
            if email.startswith(RAYS_ACCOUNT):
                yield warning(f"{where}.serviceAccounts", email, MAY_START)


def _name(profile: object) -> str:
    """The name of an instance profile, which its ARN ends with."""
    text = get_nested(profile, "Name") or get_nested(profile, "Arn") or ""
    return str(text).rpartition("/")[2]

"""Rules for the machine that runs `ray up`: tools, packages, credentials, keys and mounted files.

The rules read files, environment variables and PATH; they use neither network nor cloud.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.text import shell_command
from deploy.provisioning.cluster_file import (
    KUBERAY,
    LOCAL,
    ClusterFile,
    get_nested,
    local_path,
    pod_specs,
)
from deploy.provisioning.cluster_token import ON_NODES, PERSONAL, suggested_path, token_mount
from deploy.provisioning.findings import Finding, error, to_do, warning

SDK = {
    "aws": ("boto3",),
    "gcp": ("googleapiclient", "google_auth_httplib2", "cryptography"),
    "azure": ("azure.common", "azure.identity", "azure.mgmt.compute", "azure.mgmt.network",
              "azure.mgmt.resource", "msrest", "msrestazure"),
}  # fmt: skip
_PLACEHOLDERS = ("my-project", "00000000-0000-0000-0000-000000000000")
_EXAMPLE_REGISTRY = "registry.example.com/"
_EXAMPLE_NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")  # RFC 5737


def find_missing(cluster: ClusterFile) -> Iterator[Finding]:
    """Everything that this machine lacks, or that is wrong on it."""
    if cluster.provider == KUBERAY:
        if shutil.which("kubectl") is None:
            yield error("PATH", None, "has no kubectl: install it")
        yield from _example_images(cluster)
        return
    rules = (
        *(_tools, _sdk, _credentials, _placeholders, _example_images, _service_accounts),
        *(_keys, _mounts, _token),
    )
    for rule in rules:
        yield from rule(cluster)


def _tools(cluster: ClusterFile) -> Iterator[Finding]:
    for tool in ("ssh", "rsync"):
        if shutil.which(tool) is None:
            yield error("PATH", None, f"has no {tool}: install it, `ray up` needs it")
    if cluster.provider == "azure" and shutil.which("az") is None:
        yield error("PATH", None, "has no az: install Azure's command line, Ray needs it")


def _sdk(cluster: ClusterFile) -> Iterator[Finding]:
    missing = [name for name in SDK.get(cluster.provider, ()) if not _importable(name)]
    if missing:
        yield error(
            "provider.type",
            cluster.provider,
            f"needs {', '.join(missing)}: pip install -e '.[{cluster.provider}]'",
        )


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is missing, too
        return False


def _credentials(cluster: ClusterFile) -> Iterator[Finding]:
    """Whether there are credentials; only the cloud can tell whether they are valid."""
    provider, given = cluster.values["provider"], os.environ
    if cluster.provider == "aws":
        home = Path.home() / ".aws"
        named = given.get("AWS_SHARED_CREDENTIALS_FILE"), given.get("AWS_CONFIG_FILE")
        files = [Path(name) for name in named if name] + [home / "credentials", home / "config"]
        variables = (
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        )
        there = "aws_credentials" in provider or any(given.get(name) for name in variables)
        if given.get("AWS_ACCESS_KEY_ID") and not given.get("AWS_SECRET_ACCESS_KEY"):
            yield error(
                "AWS_SECRET_ACCESS_KEY", None, "is not set: must be, with AWS_ACCESS_KEY_ID"
            )
        advice = "`aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif cluster.provider == "gcp":
        key = "GOOGLE_APPLICATION_CREDENTIALS"
        config = Path(given.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud")
        files = [config / "application_default_credentials.json"]
        there = "gcp_credentials" in provider or bool(given.get(key))
        if given.get(key) and not Path(given[key]).is_file():
            yield error(key, given[key], "must be a file that exists")
        advice = f"`gcloud auth application-default login`, or set {key}"
    elif cluster.provider == "azure":
        config = Path(given.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
        files, there, advice = [config / "azureProfile.json"], False, "`az login`"
    else:
        return
    if not there and not any(file.is_file() for file in files):
        # A machine in the cloud may have a role of its own; to find out would need the network.
        level = warning if cluster.provider in ("aws", "gcp") else error
        yield level("provider.type", cluster.provider, f"no credentials here: {advice}")


def _placeholders(cluster: ClusterFile) -> Iterator[Finding]:
    provider = cluster.values["provider"]
    for key in ("project_id", "subscription_id"):
        if provider.get(key) in _PLACEHOLDERS:
            yield to_do(f"provider.{key}", provider[key], "is an example: put yours")
    if cluster.provider == "gcp" and not provider.get("project_id"):
        yield error("provider.project_id", None, "is missing: put your project's id")
    asks = cluster.provider == "azure" and not provider.get("subscription_id")
    if asks and not _importable("azure.cli.core"):
        advice = "is missing: put the output of `az account show --query id`"
        yield error("provider.subscription_id", None, advice)
    if cluster.provider == LOCAL:
        hosts = [("head_ip", provider.get("head_ip"))]
        hosts += [("worker_ips", host) for host in provider.get("worker_ips") or ()]
        for key, host in hosts:
            if _is_example(host):
                yield to_do(f"provider.{key}", host, "is an example: put your machine's")
            elif not re.fullmatch(r"[A-Za-z0-9:._-]+", str(host)):
                yield error(f"provider.{key}", host, "must be a machine's name or address")
        for host, count in Counter(str(host) for _, host in hosts).items():
            if count > 1:
                yield error("provider.worker_ips", host, "is there twice, or is the head's")


def _service_accounts(cluster: ClusterFile) -> Iterator[Finding]:
    """Accounts of Google Cloud: their names contain the project's."""
    project = cluster.values["provider"].get("project_id")
    if not project:  # another finding
        return
    for name, node_type in cluster.values["available_node_types"].items():
        accounts = get_nested(node_type, "node_config", "serviceAccounts")
        for account in accounts if isinstance(accounts, list) else ():
            email = str(get_nested(account, "email"))
            if "@" in email and not email.endswith(f"@{project}.iam.gserviceaccount.com"):
                key = f"available_node_types.{name}.node_config.serviceAccounts"
                yield to_do(key, email, f"must be an account of provider.project_id={project}")


def _example_images(cluster: ClusterFile) -> Iterator[Finding]:
    """Images that cannot be pulled: the name of the registry is an example."""
    if cluster.provider == KUBERAY:
        images = {
            str(get_nested(container, "image"))
            for _, pod in pod_specs(cluster.values)
            for container in pod["containers"]
        }
        key = "image"
    else:
        docker = cluster.values["docker"]
        images = {str(docker[key]) for key in docker if key.endswith("image")}
        key = "docker.image"
    for image in sorted(images):
        if image.startswith(_EXAMPLE_REGISTRY):
            yield to_do(key, image, "is an example: put the image that you pushed")


def _is_example(host: object) -> bool:
    try:
        address = ipaddress.ip_address(str(host))
    except ValueError:  # a name
        return False
    return any(address in ipaddress.ip_network(network) for network in _EXAMPLE_NETWORKS)


def _keys(cluster: ClusterFile) -> Iterator[Finding]:
    """SSH keys; Ray makes one in a cloud if the file names none."""
    auth: Mapping[str, Any] = cluster.values["auth"]
    if not auth.get("ssh_user"):
        yield error("auth.ssh_user", None, "is missing: must be a user of all nodes")
    private = auth.get("ssh_private_key")
    if private is None:
        if cluster.provider == LOCAL:
            yield error(
                "auth.ssh_private_key", None, "is missing: the head needs it to reach the workers"
            )
    else:
        yield from _key_file(private)
        if cluster.provider == "aws":
            for name, node_type in cluster.values["available_node_types"].items():
                config = node_type["node_config"]
                if "KeyName" not in config and "UserData" not in config:
                    yield error(
                        f"available_node_types.{name}.node_config.KeyName",
                        None,
                        "is missing: must name the pair of auth.ssh_private_key",
                    )
    if cluster.provider == "azure" and (private is None) != ("ssh_public_key" not in auth):
        missing = "ssh_public_key" if private else "ssh_private_key"
        yield error(f"auth.{missing}", None, "is missing: name both halves, or neither")


def _key_file(name: str) -> Iterator[Finding]:
    file = local_path(name)
    if not file.is_file():
        yield error("auth.ssh_private_key", name, "does not exist: must be a key file")
    elif stat.S_IMODE(file.stat().st_mode) & 0o077:
        yield error(
            "auth.ssh_private_key",
            name,
            f"other users can read it, which ssh refuses: chmod 600 {name}",
        )


def _mounts(cluster: ClusterFile) -> Iterator[Finding]:
    for target, source in cluster.values["file_mounts"].items():
        if target.endswith(ON_NODES):
            continue
        if not local_path(source).exists():
            where = "" if local_path(source).is_absolute() else f" in {Path.cwd()}"
            yield error(
                f"file_mounts.{target}",
                source,
                f"does not exist{where}: give the command in the folder that has it"
                if where
                else "does not exist",
            )


def _token(cluster: ClusterFile) -> Iterator[Finding]:
    mount, own = token_mount(cluster.values), suggested_path(cluster.name)
    if mount is None:
        advice = f"is missing: every node needs the token, put ~{ON_NODES}: {own}"
        yield error(f"file_mounts.~{ON_NODES}", None, advice)
        return
    key, source = f"file_mounts.{mount[0]}", mount[1]
    file = local_path(source)
    if file == local_path(PERSONAL):
        advice = f"every node would have your personal token: put one of the cluster's own, {own}"
        yield error(key, source, advice)
    elif not file.is_file() or not file.read_bytes().strip():
        create = shell_command(["raydqn", "cluster", "token", str(cluster.path)])
        yield error(key, source, f"holds no token: `{create}` creates one")
    elif stat.S_IMODE(file.stat().st_mode) & 0o077:
        yield error(key, source, f"other users can read it: chmod 600 {source}")

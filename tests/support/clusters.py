"""The cluster files that are shipped, a machine that can start them, and planted faults."""

from __future__ import annotations

import copy
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from common.version import PACKAGES, VERSION
from deploy.launch.presets import make_config
from deploy.provisioning.check import check_cluster
from deploy.provisioning.cluster_file import ClusterFile, load_cluster
from support.paths import ROOT

CLUSTERS = ROOT / "deploy" / "clusters"
RAY_UP = ("aws", "gcp", "azure", "on-prem")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", *PACKAGES)
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)
STUBS = (
    "googleapiclient", "google_auth_httplib2", "azure/common", "azure/identity",
    "azure/mgmt/compute", "azure/mgmt/network", "azure/mgmt/resource", "msrest", "msrestazure",
)  # fmt: skip
SECRETS = (
    ".aws/credentials", ".azure/azureProfile.json", ".ssh/id_ed25519",
    *(f".ray/raydqn-{name}.token" for name in ("aws", "gcp", "azure", "on-prem")),
    ".config/gcloud/application_default_credentials.json",
)  # fmt: skip
IMAGE = f"registry.example.com/raydqn:{VERSION}-ray{PINS['ray']}-py312"
AN_IMAGE = f"={IMAGE}: is an example: put the image that you pushed"
NODE, HEAD = "available_node_types", "head_start_ray_commands"


def make_home(home: Path, monkeypatch) -> Path:
    """A machine on which nothing is missing; none of it is real."""
    for name in SECRETS:
        file = home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret")
        file.chmod(0o600)
    for tool in ("ssh", "rsync", "az", "kubectl"):
        file = home / "bin" / tool
        file.parent.mkdir(exist_ok=True)
        file.touch(0o700)
    for stub in STUBS:
        (home / "sdk" / stub).mkdir(parents=True)
        (home / "sdk" / stub / "__init__.py").touch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
                 "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS",
                 "CLOUDSDK_CONFIG", "AZURE_CONFIG_DIR"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.syspath_prepend(str(home / "sdk"))
    monkeypatch.chdir(ROOT)
    return home


@cache
def _values(name: str) -> dict:
    return next(iter(yaml.safe_load_all((CLUSTERS / f"{name}.yaml").read_text())))


def read(name: str) -> dict:
    """The first document of a shipped file, to be changed at will."""
    return copy.deepcopy(_values(name))


def check(path: Path, **keys: dict) -> list[str]:
    """The findings in a file, one line each."""
    report = check_cluster(path, make_config("cartpole", overrides=keys))
    return [str(finding) for finding in report.findings]


def check_values(tmp_path: Path, values: object, **keys: dict) -> list[str]:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.dump(values, Dumper=yaml.CSafeDumper))
    return check(path, **keys)


def far(group: str) -> str:
    """The finding that shards cannot save to the head's disk."""
    return (
        f"to do: checkpoint.storage=none: shards are on {group}, the run folder is on the head: "
        "must be a URL or a folder that all nodes share, or checkpoint.replay must be false"
    )


EXAMPLES = {
    "aws": [far("learner")],
    "azure": [
        "to do: provider.subscription_id=00000000-0000-0000-0000-000000000000: is an example: put "
        "yours",
        far("learner"),
    ],
    "gcp": ["to do: provider.project_id=my-project: is an example: put yours", far("learner")],
    "on-prem": [
        "to do: provider.head_ip=192.0.2.10: is an example: put your machine's",
        "to do: provider.worker_ips=192.0.2.11: is an example: put your machine's",
        "to do: provider.worker_ips=192.0.2.12: is an example: put your machine's",
    ],
    "kuberay": [
        f"to do: image{AN_IMAGE}",
        far("learner"),
    ],
}
"""The findings in each shipped file as it is: the values that the user must fill in."""


def new_findings(tmp_path: Path, name: str, plant) -> list[str]:
    """The findings in a shipped file after `plant(values)`, without those of the file as it is."""
    values = read(name)
    plant(values)
    return sorted(set(check_values(tmp_path, values)) - set(EXAMPLES[name]))


@cache
def _loaded(name: str) -> ClusterFile:
    return load_cluster(CLUSTERS / f"{name}.yaml")


def planted(rule, name: str, plant) -> list[str]:
    """What one rule finds in a shipped file after `plant(values)`, without reading it again.

    The values have Ray's defaults filled in; of KubeRay's file they are the whole first document.
    """
    cluster = _loaded(name)
    documents = copy.deepcopy(cluster.documents)
    values = documents[0] if name == "kuberay" else copy.deepcopy(cluster.values)
    plant(values)
    if name == "kuberay":
        cluster = replace(cluster, values=values["spec"]["rayClusterSpec"], documents=documents)
    else:
        cluster = replace(cluster, values=values, documents=(values,))
    return [str(finding) for finding in rule(cluster)]


def put(*path_and_value):
    """Sets what lies at a path of keys."""

    def change(values: dict) -> None:
        *path, last, value = path_and_value
        for key in path:
            values = values[key]
        if value is None:
            del values[last]
        else:
            values[last] = value

    return change


def swap(old: str, new: str):
    """Replaces a text in all commands that set up or start."""

    def change(values: dict) -> None:
        for key, commands in values.items():
            if key.endswith("_commands"):
                values[key] = [command.replace(old, new) for command in commands]

    return change

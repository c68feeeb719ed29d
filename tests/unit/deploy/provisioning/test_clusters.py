"""The cluster files that are shipped, and what `raydqn cluster check` says to them and to worse."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from common.config import build
from common.errors import UserError
from deploy import PACKAGES, VERSION
from deploy.cli.main import main
from deploy.launch.presets import make_config
from deploy.provisioning.check import check_cluster, place
from deploy.provisioning.cluster_file import MAX_NODES, ClusterFile, NodeType, load_cluster
from deploy.provisioning.rules import STOP_WAIT_S
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES, ResourceRequest, resource_requests
from deploy.runtime.packaging import EXTRAS_OF_NODES
from deploy.supervisor.timeouts import Timeouts
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
    ".aws/credentials", ".azure/azureProfile.json", ".ray/auth_token", ".ssh/id_ed25519",
    ".config/gcloud/application_default_credentials.json",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A machine on which nothing is missing; none of it is real."""
    home = tmp_path / "home"
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


def read(name: str) -> dict:
    return next(iter(yaml.safe_load_all((CLUSTERS / f"{name}.yaml").read_text())))


def check(path: Path, **keys: dict) -> list[str]:
    """What is found, one line each."""
    report = check_cluster(path, make_config("cartpole", overrides=keys))
    return [str(finding) for finding in report.findings]


def check_values(tmp_path: Path, values: object, **keys: dict) -> list[str]:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    return check(path, **keys)


def far(group: str) -> str:
    """Checkpoints of shards that do not see the head's disk."""
    return (
        f"to do: checkpoint.storage=none: shards are on {group}, the run's folder on the head: "
        "must be a URL or a folder that all nodes share, or checkpoint.replay must be false"
    )


IMAGE = f"registry.example.com/raydqn:{VERSION}-ray{PINS['ray']}-py312"
AN_IMAGE = f"={IMAGE}: an example: put where you pushed yours"
EXAMPLES = {
    "aws": [far("learner")],
    "azure": [
        "to do: provider.subscription_id=00000000-0000-0000-0000-000000000000: an example: "
        "put yours",
        far("learner"),
    ],
    "gcp": ["to do: provider.project_id=my-project: an example: put yours", far("learner")],
    "on-prem": [
        "to do: provider.head_ip=192.0.2.10: an example: put your machine's",
        "to do: provider.worker_ips=192.0.2.11: an example: put your machine's",
        "to do: provider.worker_ips=192.0.2.12: an example: put your machine's",
    ],
    "kuberay": [
        f"to do: image{AN_IMAGE}",
        far("learner"),
    ],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_shipped_file_has_no_fault_but_the_values_to_fill_in(name):
    assert check(CLUSTERS / f"{name}.yaml") == EXAMPLES[name]


def test_each_shipped_file_is_checked():
    assert {path.stem for path in CLUSTERS.glob("*.yaml")} == set(EXAMPLES)


@pytest.mark.parametrize("name", RAY_UP)
def test_the_image_variant_is_four_lines_away(tmp_path, name):
    text = (CLUSTERS / f"{name}.yaml").read_text()
    lines, start = text.splitlines(), text[: text.index("# docker:")].count("\n")
    lines[start : start + 4] = [line.removeprefix("# ") for line in lines[start : start + 4]]
    path = tmp_path / "docker.yaml"
    path.write_text("\n".join(lines))
    assert sorted(check(path)) == sorted([*EXAMPLES[name], f"to do: docker.image{AN_IMAGE}"])
    assert load_cluster(path).values["docker"] == {
        "image": read("kuberay")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
            "image"
        ],
        "container_name": "raydqn",
        "pull_before_run": True,
    }


def test_the_command_prints_what_runs_where_and_its_hourly_shape(capfd):
    given = ["cluster", "check", "deploy/clusters/aws.yaml", "pong", "--actors.count", "32",
             "--replay.shards", "2", "--checkpoint.replay", "false"]  # fmt: skip
    assert main(given) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert (
        out
        == """\
deploy/clusters/aws.yaml: cluster raydqn on aws, us-west-2
  head     1     m7i.large (0 CPUs)           driver
  learner  0–1   g5.2xlarge (8 CPUs, 1 GPU)   learner, 2 shards, variables
  actors   0–16  c7i.4xlarge (16 CPUs, spot)  evaluator, 32 actors on 3 nodes
each hour, idle:     1 × m7i.large
each hour, this run: 1 × m7i.large + 1 × g5.2xlarge + 3 × c7i.4xlarge (spot)
each hour, at most:  1 × m7i.large + 1 × g5.2xlarge + 16 × c7i.4xlarge (spot)
0 errors, 0 warnings
"""
    )


def test_an_error_makes_the_command_fail_and_a_warning_does_not(home, capfd):
    assert main(["cluster", "check", "deploy/clusters/gcp.yaml"]) == 0
    (home / ".ray" / "auth_token").unlink()
    assert main(["cluster", "check", "deploy/clusters/gcp.yaml"]) == 2
    assert capfd.readouterr().out.endswith("1 error, 2 to do, 0 warnings\n")


# --- faults, planted one at a time ---------------------------------------------------------------


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


NODE, HEAD = "available_node_types", "head_start_ray_commands"
LEARNER = (NODE, "learner", "resources")
FAULTS = [
    # Safety.
    ("aws", swap("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
     ["error: head_start_ray_commands: RAY_AUTH_MODE=disabled: must be token, or everyone who "
      "reaches a port may run code",
      "error: worker_start_ray_commands: RAY_AUTH_MODE=disabled: must be token, or everyone who "
      "reaches a port may run code"]),
    ("gcp", swap("RAY_AUTH_MODE=token ", ""),
     ["error: head_start_ray_commands: RAY_AUTH_MODE=: must be token, or everyone who reaches a "
      "port may run code",
      "error: worker_start_ray_commands: RAY_AUTH_MODE=: must be token, or everyone who reaches a "
      "port may run code"]),
    ("azure", put("file_mounts", "~/.ray/auth_token", None),
     ["error: file_mounts.~/.ray/auth_token: is missing: every node must have the token, put "
      "~/.ray/auth_token: ~/.ray/auth_token"]),
    ("aws", swap("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
     ["error: head_start_ray_commands: --dashboard-host=0.0.0.0: takes jobs from everywhere: must "
      "be 127.0.0.1; `ray dashboard` forwards it"]),
    ("on-prem", swap("--dashboard-host=127.0.0.1", "--dashboard-host 0.0.0.0"),
     ["error: head_start_ray_commands: --dashboard-host=0.0.0.0: takes jobs from everywhere: must "
      "be 127.0.0.1; `ray dashboard` forwards it"]),
    ("aws", put(HEAD, None), # Ray's own commands take their place
     ["error: head_start_ray_commands: --dashboard-host=0.0.0.0: takes jobs from everywhere: must "
      "be 127.0.0.1; `ray dashboard` forwards it",
      "warning: head_start_ray_commands: RAY_JOB_STOP_WAIT_TIME_S=: must be at least 90, or a run "
      "is killed as it saves"]),
    ("aws", put("provider", "security_group", "IpPermissions",
                [{"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp",
                  "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
                 {"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp",
                  "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "0.0.0.0/0"}]}]),
     ["error: provider.security_group.IpPermissions.1=port 8265 from 0.0.0.0/0: open to the "
      "world: only SSH (22) may be"]),
    ("aws", put("provider", "security_group", "IpPermissions",
                [{"FromPort": -1, "ToPort": -1, "IpProtocol": "-1",
                  "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]),
     ["error: provider.security_group.IpPermissions.0=all ports from ::/0: open to the world: "
      "only SSH (22) may be"]),
    ("gcp", put(NODE, "head", "node_config", "tags", {"items": ["http-server"]}),
     ["error: available_node_types.head.node_config.tags=http-server: open to the world: only SSH "
      "(22) may be"]),
    ("gcp", put(NODE, "actors", "node_config", "networkInterfaces", None),
     ["warning: available_node_types.actors.node_config.networkInterfaces: is missing: the "
      "network that Ray takes may let in more than SSH; docs/clusters.md makes one that does not"]),
    # What starts, and what does not.
    ("on-prem", swap("RAY_enable_autoscaler_v2=0 ", ""),
     ["error: head_start_ray_commands: RAY_enable_autoscaler_v2=: must be 0: that autoscaler "
      "never starts one's own machines"]),
    ("on-prem", put("min_workers", 1),
     ["warning: min_workers=1: must be 2, as worker_ips: no more of them would be started"]),
    ("on-prem", swap("--num-cpus=8", ""),
     ["error: head_start_ray_commands: --num-cpus: is missing: must say what a node offers",
      "error: worker_start_ray_commands: --num-cpus: is missing: must say what a node offers"]),
    ("aws", swap("--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
     ["error: head_start_ray_commands: --autoscaling-config: is missing: must be "
      "~/ray_bootstrap_config.yaml, or no worker is started"]),
    ("aws", put("worker_start_ray_commands", ["export RAY_AUTH_MODE=token"]),
     ["error: worker_start_ray_commands: have no `ray start`: must start Ray"]),
    ("azure", swap("WAIT_TIME_S=120", "WAIT_TIME_S=3"),
     ["warning: head_start_ray_commands: RAY_JOB_STOP_WAIT_TIME_S=3: must be at least 90, or a "
      "run is killed as it saves"]),
    # Versions.
    ("aws", swap("ray[default]==2.60.0", "ray[default]==2.44.1"),
     ["error: setup_commands=ray 2.44.1: must be 2.60.0, as here"]),
    ("gcp", swap("python3.12", "python3.10"),
     ["error: setup_commands=python 3.10: must be <3.14,>=3.11"]),
    ("aws", put("docker", {"image": "rayproject/ray:2.40.0-py39", "container_name": "r"}),
     ["error: docker.image=ray 2.40.0: must be 2.60.0, as here",
      "error: docker.image=python 3.9: must be <3.14,>=3.11"]),
    ("aws", put("docker", {"image": "registry.example.com/raydqn:9.9.9-ray2.60.0-py312",
                           "container_name": "r"}),
     ["error: docker.image=raydqn 9.9.9: must be 0.1.0, as here",
      "to do: docker.image=registry.example.com/raydqn:9.9.9-ray2.60.0-py312: an example: put "
      "where you pushed yours"]),
    # Surroundings.
    ("aws", put("file_mounts", "~/more", "no/such/folder"),
     [f"error: file_mounts.~/more=no/such/folder: does not exist in {ROOT}: `ray up` starts from "
      "the folder that has it"]),
    ("aws", put("file_mounts", "~/more", "/no/such/folder"),
     ["error: file_mounts.~/more=/no/such/folder: does not exist"]),
    ("on-prem", put("auth", "ssh_private_key", "~/.ssh/other"),
     ["error: auth.ssh_private_key=~/.ssh/other: does not exist: must be a key file"]),
    ("on-prem", put("auth", "ssh_private_key", None),
     ["error: auth.ssh_private_key: is missing: the head needs it to reach the workers"]),
    ("on-prem", put("provider", "worker_ips", ["10.0.0.1", "10.0.0.2", "10.0.0.1", "no host"]),
     ["error: provider.worker_ips=10.0.0.1: is named twice, or is the head's",
      "error: provider.worker_ips=no host: must be a machine's name or address"]),
    ("on-prem", put("auth", "ssh_user", None),
     ["error: auth.ssh_user: is missing: must be a user of all nodes"]),
    ("aws", put("auth", "ssh_private_key", "~/.ssh/id_ed25519"),
     [f"error: available_node_types.{name}.node_config.KeyName: is missing: must name the pair of "
      "auth.ssh_private_key" for name in ("head", "learner", "actors")]),
    ("azure", put("auth", "ssh_private_key", "~/.ssh/id_ed25519"),
     ["error: auth.ssh_public_key: is missing: name both halves, or neither"]),
    ("gcp", put("provider", "project_id", None),
     ["error: provider.project_id: is missing: put your project's id"]),
    ("azure", put("provider", "subscription_id", None),
     ["error: provider.subscription_id: is missing: put what `az account show --query id` tells"]),
    # Roles and scaling.
    ("aws", put(*LEARNER, {"CPU": 8, "raydqn_learner": 1000}), []), # learns on the CPU: "auto"
    ("aws", put(*LEARNER, {"CPU": 0, "GPU": 1, "raydqn_learner": 1000}),
     [f"error: available_node_types: {title} wants 1 CPU: no node type that offers raydqn_learner "
      f"has as many{more}" for title, more in (("learner", " beside 1 GPU"), ("shard", ""))]),
    ("aws", put(*LEARNER, {"CPU": 8, "GPU": 1}),
     ["warning: resources: no node type offers raydqn_learner: its remotes go wherever there is "
      "room"]),
    ("aws", put(*LEARNER, {"GPU": 1, "raydqn_learner": 1000}),
     ["error: available_node_types.learner.resources.CPU: is missing: must say what a node "
      "offers"]),
    ("aws", put(NODE, "head", "resources", {"CPU": 2, "raydqn_actor": 1000}),
     ["warning: available_node_types.head.resources.raydqn_actor=1000: actors would run on the "
      "head, and slow Ray's own processes"]),
    ("aws", put(NODE, "actors", "max_workers", 0),
     ["warning: resources: no node type offers raydqn_actor: its remotes go wherever there is "
      "room"]),
    ("aws", put(NODE, "actors", "min_workers", 16),
     ["warning: actors.min_workers=16: never scales down: must be below max_workers=16"]),
    ("aws", put("idle_timeout_minutes", 0),
     ["warning: idle_timeout_minutes=0: nodes go before they are used: must be between 1 and 60"]),
    ("aws", put("idle_timeout_minutes", 1e9),
     ["warning: idle_timeout_minutes=1000000000.0: nodes that nobody needs stay: must be between "
      "1 and 60"]),
    # Kubernetes.
    ("kuberay", put("spec", "authOptions", "mode", "disabled"),
     ["error: authOptions.mode=disabled: must be token, or every pod that reaches a port may run "
      "code"]),
    ("kuberay", put("spec", "headGroupSpec", "serviceType", "LoadBalancer"),
     ["error: headGroupSpec.serviceType=LoadBalancer: opens the cluster to the world: must be "
      "ClusterIP"]),
    ("kuberay", put("spec", "headGroupSpec", "enableIngress", True),
     ["error: headGroupSpec.enableIngress=True: opens the cluster to the world: must be false"]),
    ("kuberay", put("spec", "rayVersion", "2.44.0"),
     ["error: rayVersion=2.44.0: must be 2.60.0, as here"]),
    ("kuberay", put("spec", "enableInTreeAutoscaling", False),
     ["error: enableInTreeAutoscaling=False: must be true, or no node is started or let go"]),
    ("kuberay", put("spec", "autoscalerOptions", "idleTimeoutSeconds", 0),
     ["warning: autoscalerOptions.idleTimeoutSeconds=0: nodes go before they are used: must be "
      "between 60 and 3600"]),
    ("kuberay", put("spec", "workerGroupSpecs", 1, "minReplicas", 16),
     ["warning: actors.minReplicas=16: never scales down: must be below maxReplicas=16"]),
    ("kuberay", put("spec", "workerGroupSpecs", 1, "template", "spec", "securityContext", None),
     ["warning: group actors.securityContext.runAsNonRoot: is missing: must be true"]),
    ("kuberay", put("spec", "headGroupSpec", "template", "spec", "containers", 0, "env", None),
     ["warning: headGroupSpec: RAY_JOB_STOP_WAIT_TIME_S=: must be at least 90, or a run is killed "
      "as it saves"]),
    ("kuberay", put("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "image",
                    "me/raydqn:latest"),
     ["warning: group learner.image=me/raydqn:latest: does not name its Ray: must have ray2.60.0",
      "warning: group learner.image=me/raydqn:latest: must be the image of the head, "
      "registry.example.com/raydqn:0.1.0-ray2.60.0-py312"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plant", "lines"), FAULTS)
def test_a_planted_fault_is_found(tmp_path, name, plant, lines):
    values = copy.deepcopy(read(name))
    plant(values)
    found = check_values(tmp_path, values)
    assert sorted(set(found) - set(EXAMPLES[name])) == sorted(lines)


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        ("aws", {"actors": {"count": 300}},
         "error: actors.count=300: no room on nodes that offer raydqn_actor for more than 255 "
         "actors, even with all nodes started"),
        ("on-prem", {"actors": {"count": 16}},
         "error: actors.count=16: no room on nodes that offer raydqn_actor for more than 15 "
         "actors, even with all nodes started"),
        ("kuberay", {"actors": {"count": 256}},
         "error: actors.count=256: no room on nodes that offer raydqn_actor for more than 255 "
         "actors, even with all nodes started"),
        ("aws", {"learner": {"device": "cuda:1"}},
         "error: available_node_types: learner wants 2 GPUs: no node type that offers "
         "raydqn_learner has as many"),
        ("aws", {"learner": {"threads": 9}},
         "error: available_node_types: learner wants 9 CPUs: no node type that offers "
         "raydqn_learner has as many beside 1 GPU"),
        ("aws", {"replay": {"shards": 9}},
         "error: replay.shards=9: no room on nodes that offer raydqn_learner for more than 7 "
         "shards, even with all nodes started"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_fit_is_found(name, keys, line):
    found = check(CLUSTERS / f"{name}.yaml", **keys)
    assert sorted(set(found) - set(EXAMPLES[name])) == [line]


def test_a_gpu_that_no_node_has_is_found(tmp_path):
    values = read("aws")
    values[NODE]["learner"]["resources"].pop("GPU")
    assert check_values(tmp_path, values, learner={"device": "cuda"})[:1] == [
        "error: available_node_types: learner wants 1 GPU: no node type that offers "
        "raydqn_learner has one"
    ]


def test_shards_that_must_leave_the_learner_are_told(tmp_path):
    values = read("aws")
    values[NODE]["learner"]["max_workers"] = 2
    found = check_values(tmp_path, values, replay={"shards": 9})
    assert sorted(set(found) - set(EXAMPLES["aws"])) == [
        "warning: replay.shards=9: 2 of them do not fit beside the learner: batches cross the "
        "network"
    ]


@pytest.mark.parametrize(
    ("name", "gone", "line"),
    [
        ("aws", "bin/ssh", "error: PATH: has no ssh: install it, `ray up` needs it"),
        ("aws", "bin/rsync", "error: PATH: has no rsync: install it, `ray up` needs it"),
        ("azure", "bin/az", "error: PATH: has no az: install Azure's command line, Ray asks it"),
        ("kuberay", "bin/kubectl", "error: PATH: has no kubectl: install it"),
        ("aws", ".aws/credentials",
         "warning: provider.type=aws: no credentials here: `aws configure`, or set "
         "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("azure", ".azure/azureProfile.json",
         "error: provider.type=azure: no credentials here: `az login`"),
        ("gcp", ".config/gcloud/application_default_credentials.json",
         "warning: provider.type=gcp: no credentials here: `gcloud auth application-default "
         "login`, or set GOOGLE_APPLICATION_CREDENTIALS"),
        ("gcp", "sdk/googleapiclient/__init__.py",
         "error: provider.type=gcp: needs googleapiclient: pip install -e '.[gcp]'"),
        ("azure", "sdk/azure/mgmt/network/__init__.py",
         "error: provider.type=azure: needs azure.mgmt.network: pip install -e '.[azure]'"),
        ("on-prem", ".ray/auth_token",
         "error: file_mounts.~/.ray/auth_token=~/.ray/auth_token: holds no token: "
         "`ray get-auth-token --generate` makes one"),
        ("on-prem", ".ssh/id_ed25519",
         "error: auth.ssh_private_key=~/.ssh/id_ed25519: does not exist: must be a key file"),
    ],
)  # fmt: skip
def test_what_is_not_here_is_found(home, name, gone, line):
    (home / gone).unlink()
    if gone.startswith("sdk/"):
        (home / gone).parent.rmdir()
    assert sorted(set(check(CLUSTERS / f"{name}.yaml")) - set(EXAMPLES[name])) == [line]


@pytest.mark.parametrize(
    ("name", "storage", "line"),
    [
        ("aws", "s3://mine/runs",
         "to do: available_node_types.learner.node_config.IamInstanceProfile: is missing: "
         "without a role of its own the node may not write to s3://mine/runs"),
        ("gcp", "gs://mine/runs", None),
        ("aws", "s3://your-bucket/runs", "to do: checkpoint.storage=s3://your-bucket/runs: an "
         "example: put yours"),
        ("aws", "runs/x", "error: checkpoint.storage=runs/x: would lie in the folder of a "
         "job, and go with it: must be a URL, or begin with / or ~"),
        ("on-prem", "~/shared", None),
        ("aws", "s3://", "error: checkpoint.storage=s3://: must name a bucket, or a folder"),
        ("on-prem", None, None),
    ],
)  # fmt: skip
def test_where_checkpoints_go_must_be_within_the_shards_reach(name, storage, line):
    found = check(CLUSTERS / f"{name}.yaml", checkpoint={"storage": storage})
    assert far("learner") not in found
    assert line in found if line else not any("storage" in one or "Iam" in one for one in found)


def test_what_cannot_save_is_not_started(tmp_path):
    """A role that is missing shows only after the machines were paid for."""
    storage = {"storage": "s3://mine/runs"}
    config = make_config("cartpole", overrides={"checkpoint": storage})
    assert not check_cluster(CLUSTERS / "aws.yaml", config).ready
    for change in (
        put(NODE, "learner", "node_config", "IamInstanceProfile", {"Name": "raydqn"}),
        put("file_mounts", "~/.aws/credentials", "~/.aws/credentials"),
    ):
        values = read("aws")
        change(values)
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(values))
        report = check_cluster(path, config)
        assert report.ready, list(report.lines())


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"id": "CartPole-v9"},
            "error: env.id=CartPole-v9: no such environment is registered; did you mean "
            "CartPole-v1?",
        ),
        ({"id": "ALE/Pongg-v5"}, "error: env.id=ALE/Pongg-v5: no such environment is registered; "),
        ({"id": "Pendulum-v1"}, "error: env.id=Pendulum-v1: actions are Box, but DQN needs Discr"),
        ({"sticky_actions": 0.3}, "error: env.sticky_actions=0.3: has no effect on CartPole-v1, "),
        # What is not there may be there on the nodes.
        ({"id": "Lab/Env-v0"}, "warning: env.id=Lab/Env-v0: no such environment is registered; so"),
        (
            {"id": "elsewhere_lacking:Env-v0"},
            "warning: env.id=elsewhere_lacking:Env-v0: module elsewhere_lacking cannot be imported",
        ),
    ],
)
def test_an_environment_that_does_not_exist_is_told_before_machines_are_paid_for(
    tmp_path, monkeypatch, env, said
):
    (tmp_path / "elsewhere_lacking.py").write_text("import simulator_of_the_nodes")
    monkeypatch.syspath_prepend(tmp_path)
    found = check(CLUSTERS / "aws.yaml", env=env)
    (line,) = [one for one in found if one.partition(": ")[2].startswith("env.")]
    assert line.startswith(said)


def test_a_module_that_does_not_travel_must_be_installed(tmp_path, monkeypatch):
    def line(module: str, why: str) -> str:
        return (
            f"warning: env.id={module}:Env-v0: {module} {why}, and so not shipped: setup_commands "
            "must install it"
        )

    def found(module: str, *commands: str) -> list[str]:
        values = read("aws")
        values["setup_commands"] += commands
        return check_values(tmp_path, values, env={"id": f"{module}:Env-v0"})

    assert line("lab", "is found nowhere here") in found("lab")  # though "available" has it
    assert line("pytest", "is installed here") in found("pytest")
    for module, command in (("lab", "lab"), ("my_lab", "my-lab>=2")):
        setup = f"~/raydqn/venv/bin/pip install '{command}'"
        assert not any("shipped" in one for one in found(module, setup))
    (tmp_path / "untravelled.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not any("shipped" in one for one in found("untravelled"))
    assert not any("shipped" in one for one in found("ale_py"))  # raydqn brings it
    assert (
        "warning: env.id=untravelled:Env-v0: nothing travels to pods: untravelled must be in their "
        "image" in check(CLUSTERS / "kuberay.yaml", env={"id": "untravelled:Env-v0"})
    )


def test_the_job_in_a_file_of_kuberay_is_the_run_that_is_checked(tmp_path, capsys):
    text = (CLUSTERS / "kuberay.yaml").read_text()
    path = tmp_path / "cluster.yaml"

    def checked(old: str = "", new: str = "", *options: str) -> str:
        path.write_text(text.replace(old, new))
        main(["cluster", "check", str(path), *options])
        return "\n".join(capsys.readouterr())

    assert "100 actors on 7 nodes" in checked()
    assert "200 actors on" in checked("--actors.count 100", "--actors.count 200")
    assert "300 actors on" not in checked("", "", "--actors.count", "300")
    assert "no room on nodes that offer raydqn_actor" in checked("", "", "--actors.count", "300")
    assert "evaluator, 2 actors" in checked("", "", "cartpole")  # another run that is meant
    assert (
        f"raydqn: error: {path}: RayJob entrypoint: --actors.cuont: unknown key; did you mean"
        in checked("--actors.count", "--actors.cuont")
    )
    assert "run: raydqn train pong --address auto" in checked()
    for job in ("sleep 'a", "raydqn resume /tmp/runs/mine", "raydqn train --config /in/image.toml"):
        other = checked("raydqn train pong", job)
        assert "run: preset cartpole (the file's job cannot be read from here)" in other
        assert "evaluator, 2 actors" in other


def test_the_learners_account_on_google_cloud_must_be_of_the_project(tmp_path):
    values = read("gcp")
    values["provider"]["project_id"] = "mine"
    assert (
        "to do: available_node_types.learner.node_config.serviceAccounts="
        "ray-autoscaler-sa-v1@my-project.iam.gserviceaccount.com: must be of "
        "provider.project_id=mine"
    ) in check_values(tmp_path, values)


def test_a_job_that_trains_beside_the_cluster_is_found(tmp_path):
    documents = list(yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text()))
    entrypoint = "raydqn train pong --run-dir /tmp/run"
    documents[1]["spec"]["entrypoint"] = entrypoint
    path = tmp_path / "kuberay.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    assert check(path)[0] == (
        f"error: RayJob entrypoint={entrypoint}: trains in the head's pod alone: must have "
        "--address auto"
    )


@pytest.mark.parametrize("shards", ["near", "spread"])
def test_shards_on_machines_that_the_cloud_may_take_are_told(shards):
    found = check(CLUSTERS / "aws.yaml", placement={"shards": shards})
    told = "shards may live on spot nodes" in "".join(found)
    assert told == (shards == "spread")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (".ssh/id_ed25519",
         "error: auth.ssh_private_key=~/.ssh/id_ed25519: others may read it, ssh refuses that: "
         "chmod 600 ~/.ssh/id_ed25519"),
        (".ray/auth_token",
         "warning: file_mounts.~/.ray/auth_token=~/.ray/auth_token: others here may read it: "
         "chmod 600 ~/.ray/auth_token"),
    ],
)  # fmt: skip
def test_a_secret_that_others_may_read_is_found(home, file, line):
    (home / file).chmod(0o644)
    assert sorted(set(check(CLUSTERS / "on-prem.yaml")) - set(EXAMPLES["on-prem"])) == [line]


def test_credentials_may_come_from_the_environment(home, monkeypatch):
    (home / ".aws" / "credentials").unlink()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    assert check(CLUSTERS / "aws.yaml")[0] == (
        "error: AWS_SECRET_ACCESS_KEY: is not set: must be, with AWS_ACCESS_KEY_ID"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert check(CLUSTERS / "aws.yaml") == EXAMPLES["aws"]
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")
    assert check(CLUSTERS / "gcp.yaml")[0] == (
        "error: GOOGLE_APPLICATION_CREDENTIALS=/no/such/file: must be a file that exists"
    )


def test_another_ray_in_the_constraints_is_found(tmp_path):
    values = read("aws")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("ray==2.59.0\n")
    values["file_mounts"]["~/raydqn/source/constraints.txt"] = str(constraints)
    assert check_values(tmp_path, values)[0] == (
        f"error: {constraints}=ray 2.59.0: must be 2.60.0, as here"
    )
    constraints.write_text("")
    swap("'ray[default]==2.60.0'", "")(values)
    assert sorted(set(check_values(tmp_path, values)) - set(EXAMPLES["aws"])) == [
        "warning: setup_commands: pin no ray: must install ray==2.60.0, which is here"
    ]


# --- files that are no cluster files --------------------------------------------------------------


BAD = [
    ("", "is empty: must be a cluster file of `ray up` or KubeRay"),
    ("- a\n- b\n", "is a list: must have keys, such as cluster_name"),
    ("hello", "is a single value: must have keys, such as cluster_name"),
    ("a: [1", "not a YAML file (line 1: expected ',' or ']', but got '<stream end>')"),
    ("\tb: 1", "not a YAML file (line 1: found character '\\t' that cannot start any token)"),
    ("a: &a [*a]", "not a cluster file (Circular reference detected)"),
    ("a: 2020-01-01", "not a cluster file (Object of type date is not JSON serializable)"),
    ("a: 1", "missing key cluster_name"),
    ("cluster_name: a", "missing key provider"),
    ("cluster_name: a\nprovider: {}", "missing key provider.type"),
    ("cluster_name: a\nprovider: {type: awz}",
     "provider.type=awz: must be one of aws, azure, gcp, local; did you mean aws?"),
    ("cluster_name: a\nprovider: {type: aws}",
     "missing key available_node_types: without it Ray takes types of its own"),
    ("cluster_name: 3\nprovider: {type: aws}", "cluster_name=3: must be of type string"),
    ("cluster_name: a\nprovider: {type: aws}\nmax_worker: 3",
     "unknown key max_worker; did you mean max_workers?"),
    ("cluster_name: a\nprovider: {type: aws}\navailable_node_types: {}\nfile_mounts: {~/a: 3}",
     "file_mounts.~/a=3: must be a path on this machine"),
    ("cluster_name: a\nprovider: {type: aws}\nmax_workers: -1",
     "max_workers=-1: must be at least 0"),
    ("cluster_name: a\nprovider: {type: aws}\nsetup_commands: pip install raydqn",
     "setup_commands=pip install raydqn: must be of type array"),
    ("cluster_name: a\nprovider: {type: aws}\navailable_node_types: {x: {node_config: {}}}",
     "missing key available_node_types.x.resources"),
    ("cluster_name: a\nprovider: {type: aws}\navailable_node_types:\n"
     "  x: {node_config: {}, resources: {}, min_worker: 3}",
     "unknown key available_node_types.x.min_worker; did you mean min_workers?"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: y\navailable_node_types:\n"
     "  x: {node_config: {}, resources: {}}",
     "`head_node_type` must be one of `available_node_types`."),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: x\navailable_node_types:\n"
     "  x: {node_config: {}, resources: {}, min_workers: -3}",
     "available_node_types.x.min_workers=-3: must be at least 0"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: x\nmax_workers: 4\n"
     "available_node_types:\n  x: {node_config: {}, resources: {}}\n"
     "  y: {node_config: {}, resources: {}, min_workers: 3, max_workers: 2}",
     "most nodes of y=2: must be at least as many as the fewest"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: x\nmax_workers: 1000000000000\n"
     "available_node_types:\n  x: {node_config: {}, resources: {}}\n"
     "  y: {node_config: {}, resources: {}}",
     f"most nodes of y=1000000000000: must be at most {MAX_NODES:,}"),
    ("cluster_name: a\nprovider: {type: local}",
     "Please supply a `head_ip` and list of `worker_ips`. Alternatively, supply a "
     "`coordinator_address`."),
    ("cluster_name: a\nprovider: {type: local, head_ip: h, worker_ips: []}\n"
     "head_start_ray_commands: ['ray start --num-cpus=$(nproc)']",
     "head_start_ray_commands: --num-cpus=$(nproc): must be a whole number, to be known "
     "beforehand"),
    ("cluster_name: a\nprovider: {type: local, head_ip: h, worker_ips: []}\n"
     "worker_start_ray_commands: ['ray start --resources=a']",
     "worker_start_ray_commands: --resources=a: must be JSON, such as '{\"a\": 1}'"),
    ("a: 1\n---\nb: 1", "has 2 documents: `ray up` takes one"),
    ("apiVersion: ray.io/v1\nkind: RayCluster", "spec=None: must have keys"),
    ("apiVersion: ray.io/v1\nkind: RayJob\nspec: {entrypoint: a}",
     "describes no RayCluster: must, or a RayJob with a rayClusterSpec"),
    ("apiVersion: ray.io/v1\nkind: RayCluster\nspec: {rayVersoin: a}",
     "unknown key spec.rayVersoin; did you mean rayVersion?"),
    ("apiVersion: ray.io/v1\nkind: RayJob\nspec: {rayClusterSpec: {headGroupSpec: {}}}",
     "missing key spec.rayClusterSpec.rayVersion"),
    ("apiVersion: ray.io/v1\nkind: RayCluster\nspec: {rayVersion: a, headGroupSpec: {}}",
     "spec: a group without key template"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_file_that_is_none_gets_one_line(tmp_path, capfd, text, says):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main(["cluster", "check", str(path)]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"raydqn: error: {path}: {says}\n")


def test_a_file_that_is_not_there_gets_one_line(tmp_path, capfd):
    assert main(["cluster", "check", str(tmp_path / "no.yaml")]) == 2
    assert capfd.readouterr().err == (
        f"raydqn: error: {tmp_path}/no.yaml: cannot be read (No such file or directory)\n"
    )
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["cluster", "check", str(tmp_path / "binary.yaml")]) == 2
    assert main(["cluster", "check", str(tmp_path)]) == 2
    assert capfd.readouterr().err.count("\n") == 2


def spots(value: object, path: tuple = ()) -> list[tuple]:
    """Every path in nested values."""
    children = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())  # fmt: skip
    return [path] * bool(path) + [s for key, child in children for s in spots(child, (*path, key))]


STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.just(10**30), st.floats(),
    st.text(max_size=6), st.lists(st.integers(), max_size=2), st.just("~nobody-here/x"),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_stands_anywhere_there_is_a_line_or_a_report(tmp_path, name, data):
    values = read(name)
    where = data.draw(st.sampled_from(spots(values)))
    put(*where, data.draw(STRANGE.filter(lambda value: value is not None)))(values)
    path = tmp_path / "strange.yaml"
    path.write_text(yaml.safe_dump(values))
    try:
        lines = list(check_cluster(path, make_config("cartpole")).lines())
    except UserError as error:
        lines = [str(error)]
    assert all("\n" not in line for line in lines)


# --- where remotes go -----------------------------------------------------------------------------


def cluster_of(*nodes: NodeType, max_workers: int = 10**6) -> ClusterFile:
    return ClusterFile(Path("x"), "aws", "x", {}, nodes, max_workers)


def node(name: str, cpus: int, gpus: int = 0, most: int = 1, offers=(), head=False) -> NodeType:
    return NodeType(name, name, False, head, int(head), most, cpus, gpus, frozenset(offers))


def test_demands_follow_the_configuration():
    config = build({"actors": {"count": 5}, "replay": {"shards": 3}, "learner": {"threads": 2}})
    assert resource_requests(config, (), gpus_offered=False) == [
        ResourceRequest("learner", 2, 0, None, 1), ResourceRequest("shard", 1, 0, None, 3),
        ResourceRequest("variables", 0, 0, None, 1), ResourceRequest("evaluator", 1, 0, None, 1),
        ResourceRequest("actor", 1, 0, None, 5),
    ]  # fmt: skip
    asked = resource_requests(config, (LEARNER_NODES, ACTOR_NODES, "x"), True)
    assert [d.resource for d in asked] == [
        LEARNER_NODES, LEARNER_NODES, LEARNER_NODES, ACTOR_NODES, ACTOR_NODES,
    ]  # fmt: skip


def test_no_node_holds_more_than_it_has_and_nothing_starts_in_vain():
    cluster = cluster_of(
        node("head", 0, head=True), node("gpu", 4, 1, 2), node("small", 2, most=3),
        node("large", 8, most=2),
    )  # fmt: skip
    nodes, found = place(cluster, [
        ResourceRequest("learner", 1, 1, None, 1), ResourceRequest("shard", 1, 0, None, 2),
        ResourceRequest("actor", 1, 0, None, 12),
    ])  # fmt: skip
    assert found == []
    assert [(n.type.name, dict(n.held)) for n in nodes] == [
        ("head", {}), ("gpu", {"learner": 1, "shard": 2, "actor": 1}), ("large", {"actor": 8}),
        ("large", {"actor": 3}),
    ]  # fmt: skip


def test_shards_go_to_the_learner_though_another_node_has_room():
    there = NodeType("there", "there", False, True, 1, 1, 8, 0, frozenset())
    cluster = cluster_of(there, node("gpu", 4, 1))
    nodes, _ = place(
        cluster,
        [ResourceRequest("learner", 1, 1, None, 1), ResourceRequest("shard", 1, 0, None, 2)],
    )
    assert [(n.type.name, dict(n.held)) for n in nodes] == [
        ("there", {}), ("gpu", {"learner": 1, "shard": 2}),
    ]  # fmt: skip


def test_all_types_together_stay_within_max_workers():
    cluster = cluster_of(node("head", 0, head=True), node("a", 2, most=9), max_workers=3)
    nodes, found = place(cluster, [ResourceRequest("actor", 1, 0, None, 100)])
    assert sum(n.held["actor"] for n in nodes) == 6
    assert [str(f) for f in found] == [
        "error: actors.count=100: no room for more than 6 actors, even with all nodes started"
    ]


def test_no_number_of_actors_means_as_many_as_fit():
    cluster = cluster_of(node("head", 0, head=True), node("a", 3, most=5))
    nodes, found = place(
        cluster,
        [ResourceRequest("evaluator", 1, 0, None, 1), ResourceRequest("actor", 1, 0, None, 0)],
    )
    assert found == []
    assert sum(n.held["actor"] for n in nodes) == 14


def test_ten_thousand_actors_are_placed_at_once():
    cluster = cluster_of(node("head", 0, head=True), node("a", 1, most=20_000))
    nodes, found = place(cluster, [ResourceRequest("actor", 1, 0, None, 10_000)])
    assert len(nodes) == 10_001
    assert found == []


# --- what is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAY_UP)
def test_versions_are_those_of_the_project(name):
    text = (CLUSTERS / f"{name}.yaml").read_text()
    assert set(re.findall(r"ray\[default\]==([\d.]+)", text)) == {PINS["ray"]}
    extras = re.search(r"'\./source\[([\w,]+)\]'", text)[1].split(",")
    cloud = {"aws": ["s3", "aws"], "gcp": ["gcs", "gcp"], "azure": ["abfs", "azure"]}
    assert extras == [*EXTRAS_OF_NODES, *cloud.get(name, [])]
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert re.findall(r"raydqn:(\S+)", text) == [f"{VERSION}-ray{PINS['ray']}-py312"]


@pytest.mark.parametrize("name", RAY_UP)
def test_nodes_get_everything_that_raydqn_is_made_of(name):
    mounts, below = read(name)["file_mounts"], "~/raydqn/source/"
    source = {target: path for target, path in mounts.items() if target.startswith(below)}
    assert source == {f"{below}{path}": path for path in SOURCE}


@pytest.mark.parametrize("name", RAY_UP)
def test_the_profile_is_read_once_however_often_it_is_set_up(tmp_path, name):
    command = next(c for c in read(name)["setup_commands"] if ".bashrc" in c)
    (tmp_path / "home" / "raydqn").mkdir()
    for _ in range(2):
        subprocess.run(["/bin/bash", "-c", f"PATH=/usr/bin:/bin; {command}"], check=True)
    assert (tmp_path / "home" / ".bashrc").read_text() == ". ~/raydqn/profile\n"
    said = subprocess.run(
        ["/bin/bash", "-c", ". ~/.bashrc; echo $RAY_AUTH_MODE $PATH"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert said.startswith(f"token {tmp_path}/home/raydqn/venv/bin:")


def start_on_node(home, command, failures):
    """A start command where so many `ray start` fail: its exit code, and what it called."""
    tools, log = home / "bin", home / "log"
    for name, body in (
        (
            "ray",
            f'echo "$*" >> {log}; [ "$1" = stop ] || [ $(grep -c ^start {log}) -gt {failures} ]',
        ),
        ("sleep", f'echo "sleep $*" >> {log}'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o700)
    words = f"PATH={tools}:/usr/bin:/bin; export RAY_HEAD_IP=192.0.2.10; ({command})"
    code = subprocess.run(["/bin/bash", "-c", words], check=False).returncode
    return code, [line.split()[0] for line in log.read_text().splitlines()]


def test_a_worker_of_ones_own_tries_until_it_reaches_the_head(tmp_path):
    """Ray's autoscaler never tries a second time what failed once on such a machine."""
    values = read("on-prem")
    command = next(c for c in values["worker_start_ray_commands"] if "ray start" in c)
    code, done = start_on_node(tmp_path / "home", command, 2)
    assert code == 0
    assert done == ["start", "stop", "sleep"] * 2 + ["start"]
    assert "AUTOSCALER_NODE_START_WAIT_S=1000000000" in "".join(values[HEAD])
    # What a node offers is still read from there.
    workers = load_cluster(CLUSTERS / "on-prem.yaml").nodes[1]
    assert (workers.cpus, workers.offers) == (8, {ACTOR_NODES})


@pytest.mark.parametrize("failures", [0, 2, 3])
@pytest.mark.parametrize(
    ("name", "key"),
    [(name, HEAD) for name in RAY_UP]
    + [(name, "worker_start_ray_commands") for name in RAY_UP if name != "on-prem"],
)
def test_ray_is_started_up_to_three_times_on_a_node(tmp_path, name, key, failures):
    """Its raylet ends where helpers need more than 15 s: ray-project/ray#65983."""
    (command,) = (c for c in read(name)[key] if "ray start" in c)
    code, done = start_on_node(tmp_path / "home", command, failures)
    assert done == ["start", "stop"] * failures + ["start"] * (failures < 3)
    assert (code == 0) == (failures < 3)


def test_workers_on_aws_get_the_image_that_the_head_has(tmp_path):
    command = next(c for c in read("aws")[HEAD] if "ami-id" in c)
    curl = tmp_path / "home" / "bin" / "curl"
    curl.write_text('#!/bin/sh\ncase "$*" in *ami-id) echo ami-0123;; *token) echo t;; esac\n')
    curl.chmod(0o700)  # else the machine's own would ask the network
    config = tmp_path / "home" / "ray_bootstrap_config.yaml"
    config.write_text('{"ImageId": "resolve:ssm:/a/b", "x": {"ImageId": "resolve:ssm:/c"}}')
    path = f"{curl.parent}:/usr/bin:/bin"
    subprocess.run(["/bin/bash", "-c", f"PATH={path}; {command}"], check=True)
    assert config.read_text() == '{"ImageId": "ami-0123", "x": {"ImageId": "ami-0123"}}'


def test_a_job_that_is_stopped_has_the_time_to_save():
    assert Timeouts().signal_s < STOP_WAIT_S


def test_the_dockerfile_is_pinned_and_runs_as_nobody_special():
    text = (CLUSTERS / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.M) == ["python:3.12-slim-bookworm"]
    assert re.findall(r"^USER (.*)$", text, re.M) == ["raydqn"]
    assert text.index("USER raydqn") < text.index("pip install")
    assert f"ray[default]=={PINS['ray']}" in text
    assert "--constraint source/constraints.txt" in text
    assert f"raydqn:{VERSION}-ray{PINS['ray']}-py312" in text
    for name in ("common", "replay_server", "actors", "learner", "deploy"):
        assert f"COPY --chown=raydqn {name} ./source/{name}" in text
    copied = re.findall(r"^COPY --chown=raydqn (.*) \./source/\S*$", text, re.M)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    extras = re.search(r"source\[([\w,]+)\]", text)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert set(extras) >= {*EXTRAS_OF_NODES, "s3", "gcs", "abfs", "aws", "gcp", "azure"}
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert sent[1] == "*"
    assert {line[1:] for line in sent if line[0] == "!"} == set(SOURCE)
    assert "USER root" not in text
    # Whatever the files' commands need, and where `ray up` puts what it mounts.
    assert "ENV HOME=/home/raydqn" in text
    installed = re.search(r"install --yes --no-install-recommends (.*?) \\", text)[1].split()
    assert {"curl", "rsync", "procps", "wget", "openssh-client"} <= set(installed)
    assert text.index("RUN mkdir /home/raydqn/raydqn") < text.index("WORKDIR /home/raydqn/raydqn")
    assert "ADD " not in text


def test_pip_makes_raydqn_of_what_nodes_get_and_the_files_are_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    (tmp_path / "source").mkdir()
    for name in SOURCE:
        (tmp_path / "source" / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(tmp_path), str(tmp_path / "source")],
        check=True,
    )  # fmt: skip
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for path in CLUSTERS.iterdir():
        assert f"deploy/clusters/{path.name}" in names
    for package in PACKAGES:
        assert f"{package}/__init__.py" in names


def test_a_job_carries_the_five_packages_and_little_else(tmp_path):
    """With Ray's own packaging, in a checkout that has everything a checkout may have."""
    for name in (".git", ".venv", "runs", "docs", "tests", "examples", ".mypy_cache", "dist"):
        (tmp_path / "checkout" / name).mkdir(parents=True)
        (tmp_path / "checkout" / name / "large").write_bytes(b"x" * 3_000_000)
    for name in ("common", "replay_server", "actors", "learner", "deploy", "docs", "tests"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy_to = tmp_path / "checkout" / path.relative_to(ROOT)
                copy_to.parent.mkdir(parents=True, exist_ok=True)
                copy_to.write_bytes(path.read_bytes())
    for name in (".rayignore", ".gitignore", "pyproject.toml", "constraints.txt"):
        (tmp_path / "checkout" / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "checkout" / "common" / "__pycache__").mkdir()
    (tmp_path / "checkout" / "common" / "__pycache__" / "x.pyc").write_bytes(b"x" * 3_000_000)
    checkout = str(tmp_path / "checkout")
    uri = get_uri_for_directory(checkout, include_gitignore=True, excludes=[])
    package = tmp_path / Path(uri).name
    create_package(checkout, package, include_gitignore=True, excludes=[])
    names = zipfile.ZipFile(package).namelist()
    assert package.stat().st_size < 2 * 2**20
    tops = {name.strip("/").split("/")[0] for name in names}
    assert tops == {
        "common", "replay_server", "actors", "learner", "deploy",
        ".rayignore", ".gitignore", "pyproject.toml", "constraints.txt",
    }  # fmt: skip
    assert any(name.endswith("deploy/presets/pong.toml") for name in names)
    assert not any("__pycache__" in name for name in names)

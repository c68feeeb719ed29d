"""`raydqn cluster check`: faults of the machine that runs `ray up`."""

from __future__ import annotations

import pytest

from support.clusters import (
    CLUSTERS,
    EXAMPLES,
    check,
    check_values,
    new_findings,
    put,
    read,
)
from support.paths import ROOT

pytestmark = pytest.mark.usefixtures("home")


FAULTS = [
    ("aws", put("file_mounts", "~/more", "no/such/folder"),
     [f"error: file_mounts.~/more=no/such/folder: does not exist in {ROOT}: give the command in "
      "the folder that has it"]),
    ("aws", put("file_mounts", "~/more", "/no/such/folder"),
     ["error: file_mounts.~/more=/no/such/folder: does not exist"]),
    ("on-prem", put("auth", "ssh_private_key", "~/.ssh/other"),
     ["error: auth.ssh_private_key=~/.ssh/other: does not exist: must be a key file"]),
    ("on-prem", put("auth", "ssh_private_key", None),
     ["error: auth.ssh_private_key: is missing: the head needs it to reach the workers"]),
    ("on-prem", put("provider", "worker_ips", ["10.0.0.1", "10.0.0.2", "10.0.0.1", "no host"]),
     ["error: provider.worker_ips=10.0.0.1: is there twice, or is the head's",
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
     ["error: provider.subscription_id: is missing: put the output of `az account show --query "
      "id`"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plant", "lines"), FAULTS)
def test_a_fault_of_the_machine_is_found(tmp_path, name, plant, lines):
    assert new_findings(tmp_path, name, plant) == sorted(lines)


@pytest.mark.parametrize(
    ("name", "gone", "line"),
    [
        ("aws", "bin/ssh", "error: PATH: has no ssh: install it, `ray up` needs it"),
        ("aws", "bin/rsync", "error: PATH: has no rsync: install it, `ray up` needs it"),
        ("azure", "bin/az", "error: PATH: has no az: install Azure's command line, Ray needs it"),
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
        ("on-prem", ".ray/raydqn-on-prem.token",
         "error: file_mounts.~/.ray/auth_token=~/.ray/raydqn-on-prem.token: holds no token: "
         f"`raydqn cluster token {CLUSTERS / 'on-prem.yaml'}` creates one"),
        ("on-prem", ".ssh/id_ed25519",
         "error: auth.ssh_private_key=~/.ssh/id_ed25519: does not exist: must be a key file"),
    ],
)  # fmt: skip
def test_a_missing_tool_credential_or_package_is_found(home, name, gone, line):
    (home / gone).unlink()
    if gone.startswith("sdk/"):
        (home / gone).parent.rmdir()
    assert sorted(set(check(CLUSTERS / f"{name}.yaml")) - set(EXAMPLES[name])) == [line]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (".ssh/id_ed25519",
         "error: auth.ssh_private_key=~/.ssh/id_ed25519: other users can read it, which ssh "
         "refuses: "
         "chmod 600 ~/.ssh/id_ed25519"),
        (".ray/raydqn-on-prem.token",
         "error: file_mounts.~/.ray/auth_token=~/.ray/raydqn-on-prem.token: other users can read "
         "it: chmod 600 ~/.ray/raydqn-on-prem.token"),
    ],
)  # fmt: skip
def test_a_secret_that_other_users_can_read_is_found(home, file, line):
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


def test_the_learners_account_on_google_cloud_must_be_of_the_project(tmp_path):
    values = read("gcp")
    values["provider"]["project_id"] = "mine"
    assert (
        "to do: available_node_types.learner.node_config.serviceAccounts="
        "raydqn-learner@my-project.iam.gserviceaccount.com: must be an account of "
        "provider.project_id=mine"
    ) in check_values(tmp_path, values)

"""The cluster files and the Dockerfile that are shipped, and their commands."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from common.parts import PartId, Role, part_name
from common.version import VERSION
from deploy.provisioning.cluster_file import load_cluster
from deploy.resources.requests import ACTOR_NODES
from support.clusters import (
    CLUSTERS,
    HEAD,
    PINS,
    RAY_UP,
    SOURCE,
    read,
)
from support.paths import ROOT

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("name", RAY_UP)
def test_versions_are_those_of_the_project(name):
    text = (CLUSTERS / f"{name}.yaml").read_text()
    cloud = [] if name == "on-prem" else [name]
    (install,) = (c for c in read(name)["setup_commands"] if "install" in c and "apt-get" not in c)
    assert install.split() == ["sh", "~/raydqn/source/deploy/clusters/install.sh", *cloud]
    assert re.search(
        rf"^ray=={re.escape(PINS['ray'])} ", (CLUSTERS / "nodes.lock").read_text(), re.M
    )
    assert re.findall(r"raydqn:(\S+)", text) == [f"{VERSION}-ray{PINS['ray']}-py312"]


@pytest.mark.parametrize("name", RAY_UP)
def test_nodes_get_all_files_of_raydqn(name):
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


def test_an_on_premises_worker_retries_until_it_reaches_the_head(tmp_path):
    """Ray's autoscaler never tries a second time what failed once on such a machine."""
    values = read("on-prem")
    command = next(c for c in values["worker_start_ray_commands"] if "ray start" in c)
    code, done = start_on_node(tmp_path / "home", command, 2)
    assert code == 0
    assert done == ["start", "stop", "sleep"] * 2 + ["start"]
    assert "AUTOSCALER_NODE_START_WAIT_S=1000000000" in "".join(values[HEAD])
    # The node's resources are still read from that command.
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


def test_the_dockerfile_is_pinned_and_runs_as_an_ordinary_user():
    text = (CLUSTERS / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.M) == ["python:3.12-slim-bookworm"]
    assert re.findall(r"^USER (.*)$", text, re.M) == ["raydqn"]
    assert text.index("USER raydqn") < text.index("install.sh")
    assert "sh source/deploy/clusters/install.sh aws gcp azure\n" in text
    assert "pip install" not in text
    assert "ARG TORCH=cuda\nRUN PIP_NO_CACHE_DIR=1 RAYDQN_TORCH=$TORCH sh " in text
    assert f"raydqn:{VERSION}-ray{PINS['ray']}-py312" in text
    for name in ("common", "replay_server", "actors", "learner", "deploy"):
        assert f"COPY --chown=raydqn {name} ./source/{name}" in text
    copied = re.findall(r"^COPY --chown=raydqn (.*) \./source/\S*$", text, re.M)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert sent[1] == "*"
    assert {line[1:] for line in sent if line[0] == "!"} == set(SOURCE)
    assert "USER root" not in text
    # The tools of the files' commands, and the folder into which `ray up` mounts.
    assert "ENV HOME=/home/raydqn" in text
    installed = re.search(r"install --yes --no-install-recommends (.*?) \\", text)[1].split()
    assert {"curl", "rsync", "procps", "wget", "openssh-client"} <= set(installed)
    assert text.index("RUN mkdir /home/raydqn/raydqn") < text.index("WORKDIR /home/raydqn/raydqn")
    assert "ADD " not in text


def test_a_job_carries_the_five_packages_and_little_more(tmp_path):
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
    assert package.stat().st_size < 2.5 * 2**20
    tops = {name.strip("/").split("/")[0] for name in names}
    assert tops == {
        "common", "replay_server", "actors", "learner", "deploy",
        ".rayignore", ".gitignore", "pyproject.toml", "constraints.txt",
    }  # fmt: skip
    assert any(name.endswith("deploy/presets/pong.toml") for name in names)
    assert not any("__pycache__" in name for name in names)


@pytest.mark.parametrize("looks", [0, 3])
def test_a_pod_on_kubernetes_waits_only_while_it_holds_a_learner_or_shards(tmp_path, looks):
    documents = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    spec = next(d for d in documents if d["kind"] == "RayJob")["spec"]["rayClusterSpec"]
    group = next(g for g in spec["workerGroupSpecs"] if g["groupName"] == "learner")
    (container,) = group["template"]["spec"]["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    # Stand-ins: the first looks find a process; a wait takes no time, and is counted.
    scripts = {
        "pgrep": f'echo "$@" >> args; [ "$(wc -l < args)" -le {looks} ]',
        "sleep": "echo >> waits",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(command, check=True, cwd=tmp_path, env={"PATH": path}, timeout=30)
    args = (tmp_path / "args").read_text().splitlines()
    assert len(args) == looks + 1
    waits = tmp_path / "waits"
    assert (len(waits.read_text()) if waits.exists() else 0) == looks
    pattern = re.compile(args[0].split(" ", 1)[1])
    for role in (Role.LEARNER, Role.SHARD, Role.WEIGHT_STORE):
        assert pattern.search(f"ray::{part_name(PartId(role, 0), 0)}.call")
    assert not pattern.search("ray::IDLE")
    assert not pattern.search(" ".join(command)), "the hook does not wait for itself"

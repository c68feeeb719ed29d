"""deploy/clusters/install.sh: what a node has pip install."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.clusters import CLUSTERS, PINS
from support.paths import ROOT

SCRIPT = CLUSTERS / "install.sh"
TORCH = f"torch=={PINS['torch']}"
PYTORCH = "https://download.pytorch.org/whl/cpu"
LAST = f"install --no-deps --no-build-isolation {ROOT}"


def tool(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)


class Node:
    """A home folder whose pip, nvidia-smi and list of devices are not real."""

    def __init__(self, home: Path) -> None:
        self.home, self.log = home, home / "log"
        self.pip = home / "raydqn" / "venv" / "bin" / "pip"
        self.set_pip("exit 0")
        self.set_gpu(driver=False, device=False)

    def set_pip(self, body: str) -> None:
        tool(self.pip, f'echo "$*" >> {self.log}\n{body}')

    def set_gpu(self, driver: bool, device: bool) -> None:
        tool(self.home / "bin" / "nvidia-smi", f"exit {0 if driver else 9}")
        tool(self.home / "bin" / "grep", f"exit {0 if device else 1}")

    def install(self, *clouds: str, **env: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        env |= {"HOME": str(self.home), "PATH": f"{self.home}/bin:/usr/bin:/bin"}
        command = ["/bin/sh", str(SCRIPT), *clouds]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    def asked(self) -> list[str]:
        """Words of each call of pip, without the two about its output."""
        quiet = re.compile(" --quiet| --disable-pip-version-check")
        return [quiet.sub("", line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def locks(*names: str) -> str:
    files = " ".join(f"-r {CLUSTERS}/{name}.lock" for name in names)
    return f"install --require-hashes --only-binary :all: {files}"


def test_a_node_without_a_gpu_gets_the_cpu_build_of_the_tested_torch(node):
    """An image with NVIDIA's driver has `nvidia-smi` on such nodes, too, where it fails."""
    assert node.install("aws").returncode == 0
    torch = f"install --no-deps --index-url {PYTORCH} {TORCH}"
    assert node.asked() == [torch, locks("nodes", "aws"), LAST]


@pytest.mark.parametrize(("driver", "device"), [(True, False), (False, True)])
def test_a_node_with_a_gpu_gets_torch_for_cuda(node, driver, device):
    """Also while its driver does not run yet."""
    node.set_gpu(driver, device)
    assert node.install("gcp").returncode == 0
    assert node.asked() == [locks("torch", "nodes", "gcp"), LAST]


def test_a_gpu_that_comes_later_replaces_the_cpu_build(node):
    packages = node.home / "raydqn" / "venv" / "lib" / "python3.12" / "site-packages"
    (packages / f"torch-{PINS['torch']}+cpu.dist-info").mkdir(parents=True)
    node.set_gpu(driver=True, device=True)
    assert node.install().returncode == 0
    assert node.asked() == ["uninstall --yes torch", locks("torch", "nodes"), LAST]


def test_a_user_chooses_the_build_and_its_index(node):
    node.set_gpu(driver=True, device=True)
    mirror = "https://mirror.example.com/cpu"
    assert node.install(RAYDQN_TORCH="cpu", RAYDQN_TORCH_INDEX=mirror).returncode == 0
    assert node.asked()[0] == f"install --no-deps --index-url {mirror} {TORCH}"
    node.set_gpu(driver=False, device=False)
    assert node.install("aws", "gcp", RAYDQN_TORCH="cuda").returncode == 0
    assert node.asked() == [locks("torch", "nodes", "aws", "gcp"), LAST]


def test_an_index_without_the_cpu_build_ends_the_set_up_with_advice(node):
    node.set_pip("exit 1")
    done = node.install()
    assert done.returncode == 1
    assert done.stderr == (
        f"install.sh: cannot install the CPU build of {TORCH} from {PYTORCH}: set "
        "RAYDQN_TORCH_INDEX to an index that has it, or RAYDQN_TORCH=cuda for PyPI's build\n"
    )
    assert len(node.asked()) == 1


def test_a_lock_that_pip_refuses_ends_the_set_up(node):
    node.set_pip('case "$*" in *--require-hashes*) exit 1;; esac')
    assert node.install().returncode == 1
    assert LAST not in node.asked()


def test_an_unknown_build_is_refused(node):
    done = node.install(RAYDQN_TORCH="rocm")
    assert (done.returncode, node.asked()) == (2, [])
    assert done.stderr == "install.sh: RAYDQN_TORCH=rocm: must be auto, cpu or cuda\n"

"""The lock files of the nodes: the tested versions, each file with its hash, nothing left out."""

from __future__ import annotations

import re
import runpy
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.runtime.packaging import EXTRAS_OF_NODES
from support.paths import ROOT

FOLDER = ROOT / "deploy" / "clusters"
NAMES = ("nodes", "torch", "aws", "gcp", "azure")
EXTRAS = {"aws": ("s3", "aws"), "gcp": ("gcs", "gcp"), "azure": ("abfs", "azure")}
ONLY_CUDA = re.compile(r"(nvidia|cuda)-.*|triton")  # the tests may have torch's CPU build


def locked(name):
    """Versions by package; each requirement has at least one hash and nothing else."""
    found = {}
    text = (FOLDER / f"{name}.lock").read_text(encoding="utf-8")
    for block in re.split(r"\n(?=[^\s#])", text):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        requirement = Requirement(lines[0].removesuffix("\\").strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert len(lines) > 1, f"{requirement.name} has no hash"
        for line in lines[1:]:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


def needed(*extras):
    """Names of the direct dependencies of raydqn, with those of extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def needed_by(name):
    """Names of the dependencies of an installed package, on a node; none of a missing package."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    wanted = map(Requirement, lines)
    here = (r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""}))
    return {canonicalize_name(requirement.name) for requirement in here}


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_holds_the_tested_versions(name):
    tested = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            package, version = line.split("==")
            tested[canonicalize_name(package)] = version
    versions = locked(name)
    assert versions
    for package, version in versions.items():
        assert ONLY_CUDA.fullmatch(package) or tested[package] == version, package


def test_no_lock_names_an_index():
    assert {path.stem for path in FOLDER.glob("*.lock")} == set(NAMES)
    for name in NAMES:
        text = (FOLDER / f"{name}.lock").read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index" not in text


def test_the_locks_together_hold_every_dependency():
    nodes, torch = locked("nodes"), locked("torch")
    assert "torch" in torch
    assert not nodes.keys() & torch.keys(), "a node without a GPU installs nodes.lock alone"
    for cloud, extras in {"nodes": (), **EXTRAS}.items():
        here = nodes.keys() | torch.keys() | locked(cloud).keys()
        assert needed(*EXTRAS_OF_NODES, *extras) | {"hatchling"} <= here, cloud
        for package in here:
            assert needed_by(package) <= here, f"{cloud}: {package}"


def test_the_command_that_writes_the_locks_knows_their_extras(monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("runs nothing here"))
    command = runpy.run_path(str(ROOT / ".ci" / "lock"), run_name="read")
    assert command["BASE"] == EXTRAS_OF_NODES
    assert command["CLOUDS"] == EXTRAS

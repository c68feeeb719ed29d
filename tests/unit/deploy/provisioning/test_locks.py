"""The lock files of the nodes: the tested versions, each file with its hash, nothing left out."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import ROOT

FOLDER = ROOT / "deploy" / "clusters"
LOCKS = sorted(FOLDER.glob("*.lock"))
EXTRAS = {"aws": ("s3", "aws"), "gcp": ("gcs", "gcp"), "azure": ("abfs", "azure")}


def locked(path):
    """Versions by name; each requirement has at least one hash and nothing else."""
    found = {}
    for block in re.split(r"\n(?=[^\s#])", path.read_text(encoding="utf-8")):
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


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_the_tested_versions(path):
    tested = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            tested[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    versions = locked(path)
    assert versions
    of_cuda = re.compile(r"(nvidia|cuda)-.*|triton|setuptools")  # tests have torch's CPU build
    for name, version in versions.items():
        assert of_cuda.fullmatch(name) or tested[name] == version, name


def test_the_locks_together_hold_every_dependency():
    nodes, torch = locked(FOLDER / "nodes.lock"), locked(FOLDER / "torch.lock")
    assert "torch" in torch
    assert not nodes.keys() & torch.keys(), "a node without a GPU installs nodes.lock alone"
    assert needed("atari", "fast", "minatar") | {"hatchling"} <= nodes.keys() | torch.keys()
    for cloud, extras in EXTRAS.items():
        more = locked(FOLDER / f"{cloud}.lock")
        assert needed(*extras) <= nodes.keys() | more.keys() | torch.keys(), cloud

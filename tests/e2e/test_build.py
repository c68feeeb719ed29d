"""What pip builds from a source tree as the cluster files and the Dockerfile copy it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from common.version import PACKAGES
from support.clusters import CLUSTERS, SOURCE
from support.paths import ROOT


def test_pip_builds_raydqn_from_the_files_on_nodes_with_the_cluster_files(tmp_path, monkeypatch):
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

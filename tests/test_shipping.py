"""What code the nodes of a cluster are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.config import build
from deploy import PACKAGES
from deploy.shipping import code_for, module_of, must_be_installed
from deploy.submit import stage

ROOT = Path(__file__).parent.parent
OURS = [ROOT / name for name in PACKAGES]
ENVIRONMENT = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
gym.register("Own-v0", CartPoleEnv, max_episode_steps=200)
"""


@pytest.mark.parametrize(
    ("env_id", "module"),
    [("CartPole-v1", ""), ("ALE/Pong-v5", ""), ("mine:Env-v0", "mine"), ("a.b.c:d/E-v0", "a")],
)
def test_the_module_of_an_environment(env_id, module):
    assert module_of(env_id) == module


def test_what_is_ours_is_shipped_once():
    assert code_for("deploy.waiting_env:Waiting-v0") == OURS
    assert must_be_installed("deploy.waiting_env:Waiting-v0") is None


def test_what_is_installed_or_not_there_is_not_shipped():
    for env_id in ("CartPole-v1", "ale_py:ALE/Pong-v5", "json:X-v0", "sys:X-v0", "not_there:X-v0"):
        assert code_for(env_id) == OURS
    assert must_be_installed("CartPole-v1") is None
    assert must_be_installed("ale_py:ALE/Pong-v5") is None  # comes with an extra
    assert must_be_installed("msgpack:X-v0") is None
    assert must_be_installed("hypothesis:X-v0") is None  # as does this
    assert must_be_installed("not_there:X-v0") == "not_there"
    assert must_be_installed("jinja2:X-v0") == "jinja2"


@pytest.mark.parametrize("kind", ["module", "package", "namespace", "link"])
def test_an_environment_of_ones_own_is_found_in_what_is_shipped(tmp_path, monkeypatch, kind):
    name, home = f"own_{kind}", tmp_path / "home"
    file = home / f"{name}.py" if kind == "module" else home / name / "envs.py"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        home.mkdir()
        (home / name).symlink_to(tmp_path / "elsewhere")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(ENVIRONMENT)
    if kind == "package":
        (home / name / "__init__.py").touch()
    module = name if kind == "module" else f"{name}.envs"
    monkeypatch.syspath_prepend(home)
    assert code_for(f"{module}:Own-v0") == [*OURS, home / (file.name if kind == "module" else name)]
    assert must_be_installed(f"{module}:Own-v0") is None

    job = tmp_path / "job"
    job.mkdir()
    (file.parent / "__pycache__").mkdir(exist_ok=True)
    stage(job, build({"env": {"id": f"{module}:Own-v0"}}))
    assert not list(job.rglob("__pycache__"))
    tried = f"import {module}, gymnasium, deploy; gymnasium.make('Own-v0'); print(deploy.__file__)"
    done = subprocess.run([sys.executable, "-c", tried], cwd=job, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == job / "deploy"

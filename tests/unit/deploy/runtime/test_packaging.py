"""What code the nodes of a cluster are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.config_toml import build
from common.errors import UserError
from common.version import PACKAGES
from deploy.launch.presets import make_config
from deploy.provisioning import job
from deploy.provisioning.job import stage
from deploy.runtime.packaging import code_for, comes_with_raydqn, is_here, module_of, travels
from support.paths import ROOT

OURS = [ROOT / name for name in PACKAGES]
ENVIRONMENT = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
gym.register("Own-v0", CartPoleEnv, max_episode_steps=200)
"""


def with_env(env_id):
    return make_config("cartpole", overrides={"env": {"id": env_id}})


@pytest.mark.parametrize(
    ("env_id", "module"),
    [("CartPole-v1", ""), ("ALE/Pong-v5", ""), ("mine:Env-v0", "mine"), ("a.b.c:d/E-v0", "a")],
)
def test_the_module_of_an_environment(env_id, module):
    assert module_of(env_id) == module


def test_what_is_ours_is_shipped_once():
    assert code_for(with_env("deploy.bench.sleep_env:Sleep-v0")) == OURS
    assert comes_with_raydqn("deploy")


def test_what_is_installed_or_not_there_is_not_shipped():
    for module in ("ale_py", "json", "sys", "not_there", "pytest"):
        assert code_for(with_env(f"{module}:X-v0")) == OURS
        assert not travels(module)
        assert is_here(module) == (module != "not_there")
    assert [comes_with_raydqn(name) for name in ("ale_py", "msgpack", "minatar")] == [True] * 3
    # Extras that no node installs, and what there is not.
    assert not any(comes_with_raydqn(name) for name in ("hypothesis", "pytest", "not_there"))


def test_what_the_system_or_a_user_installed_is_not_shipped(tmp_path, monkeypatch):
    for place in ("dist-packages", "site-packages"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"from_{place[:4]}.py").touch()
        monkeypatch.syspath_prepend(tmp_path / place)
        assert is_here(f"from_{place[:4]}")
        assert not travels(f"from_{place[:4]}")


def test_what_cannot_be_copied_is_one_line(tmp_path, monkeypatch):
    package = tmp_path / "broken_link"
    package.mkdir()
    (package / "data").symlink_to(tmp_path / "gone")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "job").mkdir()
    config = build({"env": {"id": "broken_link:X-v0"}})
    with pytest.raises(UserError, match=r"broken_link/data: cannot be shipped \(.*No such file"):
        stage(tmp_path / "job", config)


def test_what_is_too_much_for_a_job_is_not_shipped(tmp_path, monkeypatch):
    package = tmp_path / "heavy"
    package.mkdir()
    (package / ".venv").mkdir()
    (package / ".venv" / "large").write_bytes(b"x" * (2 << 20))
    monkeypatch.setattr(job, "MAX_BYTES", 3 << 20)
    monkeypatch.syspath_prepend(tmp_path)
    config = build({"env": {"id": "heavy:X-v0"}})
    (tmp_path / "a").mkdir()
    stage(tmp_path / "a", config)  # what is hidden stays
    (package / "data").write_bytes(b"x" * (4 << 20))
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"env.id=heavy:X-v0: .* MiB: must be at most 3"):
        stage(tmp_path / "b", config)


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
    shipped = [*OURS, home / (file.name if kind == "module" else name)]
    assert code_for(with_env(f"{module}:Own-v0")) == shipped
    wrapped = {"env": {"wrappers": [f"{module}:W"]}, "network": {"kind": f"{module}:Net"}}
    assert code_for(make_config("cartpole", overrides=wrapped)) == shipped
    assert travels(name)

    job = tmp_path / "job"
    job.mkdir()
    (file.parent / "__pycache__").mkdir(exist_ok=True)
    stage(job, build({"env": {"id": f"{module}:Own-v0"}}))
    assert not list(job.rglob("__pycache__"))
    tried = f"import {module}, gymnasium, deploy; gymnasium.make('Own-v0'); print(deploy.__file__)"
    done = subprocess.run([sys.executable, "-c", tried], cwd=job, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == job / "deploy"

"""The token of a cluster: created once, the cluster's own, for its owner alone."""

from __future__ import annotations

import os
import stat

import pytest

from deploy.cli.main import main
from deploy.provisioning.cluster_token import token_of
from deploy.provisioning.ray_commands import environment, token
from support.clusters import CLUSTERS, check_values, make_home, put, read


@pytest.fixture
def home(tmp_path, monkeypatch):
    path = make_home(tmp_path / "home", monkeypatch)
    (path / ".ray" / "raydqn-aws.token").unlink()
    (path / ".ray" / "auth_token").write_text("personal")
    return path


def test_a_token_is_created_once_and_for_its_owner_alone(home, capsys):
    before = os.umask(0)
    try:
        assert main(["cluster", "token", str(CLUSTERS / "aws.yaml")]) == 0
    finally:
        os.umask(before)
    path = home / ".ray" / "raydqn-aws.token"
    created = path.read_text()
    assert len(created) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: created")
    assert f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={path}\n" in out
    assert created not in out
    assert main(["cluster", "token", str(CLUSTERS / "aws.yaml")]) == 0
    assert path.read_text() == created
    assert "exists already" in capsys.readouterr().out
    assert (home / ".ray" / "auth_token").read_text() == "personal"


def test_the_personal_token_is_never_shipped(home, tmp_path, capsys):
    values = read("on-prem")
    put("file_mounts", "~/.ray/auth_token", "~/.ray/auth_token")(values)
    assert (
        "error: file_mounts.~/.ray/auth_token=~/.ray/auth_token: every node would have your "
        "personal token: put one of the cluster's own, ~/.ray/raydqn.token"
    ) in check_values(tmp_path, values)


@pytest.mark.parametrize(("name", "says"), [("kuberay", "KubeRay creates the token"), ("no", "no")])
def test_a_file_without_a_token_of_its_own_is_one_line(home, capsys, name, says):
    assert main(["cluster", "token", str(CLUSTERS / f"{name}.yaml")]) == 2
    assert says in capsys.readouterr().err


def test_commands_for_a_cluster_use_its_token_and_not_the_users_own(home, monkeypatch):
    (home / ".ray" / "raydqn-gcp.token").write_text("of the cluster")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    with token_of(CLUSTERS / "gcp.yaml"):
        assert token() == "of the cluster"
        assert "RAY_AUTH_TOKEN" not in environment()
        assert environment()["RAY_AUTH_TOKEN_PATH"] == str(home / ".ray" / "raydqn-gcp.token")
    assert token() == "of another cluster"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ

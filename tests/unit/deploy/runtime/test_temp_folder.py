"""The folder of Ray's sockets and logs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from deploy.runtime import temp_folder
from deploy.runtime.temp_folder import OF_RAY, SOCKET_BYTES, private_temp_folder


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder for temporary files, in place of `/tmp`."""
    monkeypatch.setattr(temp_folder, "SHORT", tmp_path)
    monkeypatch.setattr(temp_folder, "SOCKET_BYTES", SOCKET_BYTES + len(str(tmp_path)))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_no_other_user_can_enter_it_whatever_it_was_before(base):
    own = base / f"raydqn-{os.geteuid()}"
    assert private_temp_folder() == own / "ray"
    assert mode_of(own) == 0o700
    own.chmod(0o777)
    assert private_temp_folder() == own / "ray"
    assert mode_of(own) == 0o700


@pytest.mark.parametrize("squat", ["link", "file", "of another user"])
def test_what_another_user_has_put_there_is_not_used(base, squat):
    own, other = base / f"raydqn-{os.geteuid()}", base / "other"
    other.mkdir()
    if squat == "link":
        own.symlink_to(other)
    elif squat == "file":
        own.touch()
    elif os.geteuid() == 0:
        own.mkdir(0o777)
        os.chown(own, 65_534, 65_534)
    else:
        pytest.skip("only root can play another user")
    folder = private_temp_folder()
    assert folder.parent != own
    assert folder.parent.name.startswith(own.name)
    assert mode_of(folder.parent) == 0o700
    assert folder.parent.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_whose_path_is_too_long_for_a_socket_is_not_used(base, monkeypatch, variable):
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr("tempfile.tempdir", None)
    long = base / ("long" * 10)
    long.mkdir()
    monkeypatch.setenv(variable, str(long))
    folder = private_temp_folder()
    assert folder.parent.parent == base
    assert len(str(folder.parent)) + len(OF_RAY) <= temp_folder.SOCKET_BYTES

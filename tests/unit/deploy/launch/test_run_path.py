"""The folder of a new run."""

from __future__ import annotations

import threading
import time

from deploy.launch import run_path as module
from deploy.launch.run_path import run_path


def test_a_new_folder_is_removed_if_it_is_still_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_path(None, "pong") as path:
        assert path.is_dir()
    assert list(tmp_path.iterdir()) == []
    with run_path(None, "pong") as path:
        (path / "config.toml").touch()
    assert path.is_dir()


def test_a_disk_that_hangs_does_not_keep_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "REMOVE_S", 0.1)
    answers = threading.Event()
    monkeypatch.setattr(module, "_remove_empty", lambda path: answers.wait(60))
    begin_s = time.monotonic()
    with run_path(None, "pong"):
        pass
    answers.set()
    assert time.monotonic() - begin_s < 10

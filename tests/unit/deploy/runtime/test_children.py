"""Child processes that a command leaves or kills at its end."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from deploy.cli.main import main
from deploy.runtime import children
from deploy.runtime.children import end_children, spare_children

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
WITH_ONE_BELOW = ["sh", "-c", "sleep 600 & echo; wait"]


@pytest.fixture(autouse=True)
def _nothing_is_spared(monkeypatch):
    monkeypatch.setattr(children, "_spared", frozenset())


def test_children_from_before_the_command_are_spared_with_all_below_them():
    with subprocess.Popen(WITH_ONE_BELOW, stdout=subprocess.PIPE) as before:
        before.stdout.readline()
        spare_children()
        (below,) = psutil.Process(before.pid).children()
        with subprocess.Popen(SLEEP) as left:
            try:
                assert end_children() == 1
                assert not psutil.pid_exists(left.pid)
                assert before.poll() is None
                assert below.is_running()
            finally:
                for process in (left, before, below):
                    process.kill()


def test_a_command_spares_the_children_that_it_finds(capsys):
    with subprocess.Popen(SLEEP) as before:
        try:
            assert main(("presets",)) == 0
            assert end_children() == 0
            assert before.poll() is None
        finally:
            before.kill()


def test_processes_that_cannot_be_listed_end_nothing(monkeypatch):
    def refused(*args, **kwargs):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "children", refused)
    spare_children()
    assert end_children() == 0

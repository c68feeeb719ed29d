"""Ray on this machine: the end of its own processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import RunFailedError
from deploy.runtime.local_ray import CoreProcesses

LOGS = Path("/tmp/ray/session/logs")


def process(command, code=None):
    """A process of Ray's as `subprocess` shows it; `code`: how it ended."""
    return SimpleNamespace(args=command, code=code, poll=lambda: code)


@pytest.mark.parametrize(
    ("command", "code", "how"),
    [
        (["/ray/gcs/gcs_server", "--port=0"], -9, r"gcs_server ended \(SIGKILL\)"),
        (["/ray/raylet/raylet", "--x"], 1, r"raylet ended \(exit code 1\)"),
    ],
)
def test_the_end_of_a_process_that_ray_needs_is_told_once(command, code, how):
    processes = CoreProcesses([process(["/ray/gcs_server"]), process(command, code)], LOGS)
    with pytest.raises(RunFailedError, match=rf"Ray's process {how}, .*logs are in .*/logs"):
        processes.check()
    processes.check()


def test_processes_that_live_or_are_not_needed_end_no_run():
    others = (["/usr/bin/python", "log_monitor.py"], "a shell line", [])
    CoreProcesses([process(["/ray/raylet"]), *(process(args, 1) for args in others)], LOGS).check()

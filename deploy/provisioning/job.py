"""A run as a job of Ray's: its code and configuration, its command, its state."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from common.config import Config
from common.config_toml import to_toml
from common.errors import UserError
from deploy.provisioning.ray_commands import run_captured, run_shown
from deploy.runtime.packaging import code_for

RUNS = "raydqn/runs"
"""Folder of the runs on the head, below the home folder of its user."""
CONFIG = "submitted.toml"
ACTIVE = ("PENDING", "RUNNING")
"""States of a job that has not ended."""
MAX_BYTES = 100 << 20
"""Of a job's code: the head keeps it in memory, and Ray accepts 500 MiB for all jobs together."""
_NOT_SHIPPED = shutil.ignore_patterns("__pycache__", ".*")


def stage(folder: Path, config: Config) -> None:
    """Copy the job's code, as it is here, and its configuration into `folder`.

    Raises:
        UserError: a file cannot be copied, or the code is larger than a job may carry.
    """
    for path in code_for(config):
        try:
            if path.is_file():
                shutil.copy(path, folder)
            else:
                shutil.copytree(path, folder / path.name, ignore=_NOT_SHIPPED)
        except shutil.Error as error:  # of several files
            source, _, reason = error.args[0][0]
            raise UserError(f"{source}: cannot be shipped ({reason})") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be shipped ({error.strerror})") from None
    (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise UserError(
            f"env.id={config.env.id}: the code to ship has {size >> 20:,} MiB: must be at most "
            f"{MAX_BYTES >> 20}; keep data out of the package"
        )


def run_job(folder: Path, name: str, address: str) -> tuple[int, bool]:
    """Submit the job in `folder`, and show its output until it ends.

    Returns:
        The exit code of `ray job submit`, 0 after Ctrl-C; whether the job is still active.

    Raises:
        KeyboardInterrupt: before the cluster accepted the job.
    """
    shipped = ("--working-dir", str(folder), "--submission-id", name)
    try:
        code = run_shown(
            *("job", "submit", "--address", address, *shipped), "--", *entrypoint(name)
        )
    except KeyboardInterrupt:
        if job_state(name, address) not in ACTIVE:
            raise
        return 0, True
    return code, code != 0 and job_state(name, address) in ACTIVE


def job_state(name: str, address: str) -> str:
    """The state of a job in Ray's words, such as `RUNNING`; empty if there is no such job."""
    status = run_captured(["job", "status", "--address", address, name])
    state = re.search(
        "PENDING|RUNNING|STOPPED|SUCCEEDED|FAILED", status.stdout.replace(name, "").upper()
    )
    return state[0] if status.returncode == 0 and state else ""


def entrypoint(name: str) -> list[str]:
    """The job's command, for the head's shell in the folder of the shipped code."""
    run = run_folder(name)  # the command itself expands the `~`, no shell does
    train = "python -m deploy train --address auto"
    return [*train.split(), "--config", CONFIG, "--run-dir", run]


def run_folder(name: str) -> str:
    """The run folder on the head."""
    return f"~/{RUNS}/{name}"

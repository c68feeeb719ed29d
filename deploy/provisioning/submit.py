"""`raydqn cluster submit`: start a cluster, train there as a job, and show the output here.

All of it goes through Ray's own commands, and through SSH alone: the dashboard, which accepts jobs,
listens on the head's loopback only, and a tunnel leads there.
"""

from __future__ import annotations

import re
import tempfile
from datetime import datetime
from pathlib import Path

from common.config import Config
from common.errors import UserError
from deploy.provisioning.cluster_token import token_of
from deploy.provisioning.job import job_state, run_folder, run_job, stage
from deploy.provisioning.ray_commands import (
    as_typed,
    every_signal_as_ctrl_c,
    run_captured,
    run_shown,
    say,
)
from deploy.provisioning.tunnel import tunnel

_NO_HEAD = re.compile(r"Head node of cluster .* not found|ResourceGroupNotFound")
_NOT_READY = re.compile(r"The head node being returned: \S+ is not `up-to-date`")
"""Ray's messages for a cluster that is not up, and for one whose head is not set up."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def new_name(preset: str) -> str:
    """A new name for a run and its job: `cartpole-20260101-120000`."""
    return f"{preset}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def submit(file: Path, config: Config, name: str) -> int:
    """Start the cluster unless it is up, train there, and show the run's output until it ends.

    SIGTERM and SIGHUP act as Ctrl-C does.

    Args:
        file: of `ray up`.
        config: of the run.
        name: of the run, and of its job.

    Returns:
        The exit code of `ray job submit`: 0 if the run ended well. Also 0 if Ctrl-C ended the
        output while the run continues.

    Raises:
        UserError: the name is invalid or taken, or a command of Ray's failed. A cluster that this
            command failed to start is taken down again.
        KeyboardInterrupt: during the start of the cluster, which is then taken down, too; or
            before the cluster accepted the job.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--name={name}: must be letters, digits, dots, - and _, at most 100")
    stays = f"the cluster stays up; to end it: {as_typed('down', file)}"
    with every_signal_as_ctrl_c(), token_of(file), tempfile.TemporaryDirectory() as folder:
        stage(Path(folder), config)  # first: a mistake found here costs no machine
        bring_up(file)
        try:
            with tunnel(file) as port:
                address = f"http://127.0.0.1:{port}"
                if job_state(name, address):
                    raise UserError(
                        f"--name={name}: the cluster has a job of that name already: use another "
                        f"name; {stays}"
                    )
                print_hints(file, name)
                code, goes_on = run_job(Path(folder), name, address)
        except KeyboardInterrupt:
            say(f"\n{stays}")
            raise
    if goes_on:
        say(f"\nthe output ends here; the run continues as job {name}")
    elif code != 0:
        say(stays)
    return code


def print_hints(file: Path, name: str) -> None:
    """Print the commands for the run, before its output fills the screen."""
    print(f"run {name}; from another terminal:")
    for what, command in (
        ("show its status", as_typed("exec", file, f"raydqn status {name} --address auto")),
        (
            "scale it",
            as_typed("exec", file, f"raydqn scale {name} --address auto --actors N"),
        ),
        ("save and stop it", as_typed("exec", file, f"ray job stop {name}")),
        ("show its output", as_typed("exec", file, f"ray job logs --follow {name}")),
        # The `~` is the head's: the shell here must not replace it.
        ("copy its folder", as_typed("rsync-down", file, run_folder(name), ".")),
        ("end the cluster", as_typed("down", file)),
    ):
        print(f"  {what:<17} {command}", flush=True)


def bring_up(file: Path) -> None:
    """Start the cluster unless it is up: `ray up` would restart Ray, and end every run there.

    Raises:
        UserError: the head is not ready, its state is unknown, or `ray up` failed.
        KeyboardInterrupt: during `ray up`; the cluster is taken down again.
    """
    head = run_captured(["get-head-ip", str(file)])
    output = " ".join(f"{head.stdout} {head.stderr}".split())  # Ray breaks long lines
    if _NOT_READY.search(output):
        raise UserError(
            f"{file}: its head exists, but Ray has not finished its setup; nothing was started: "
            f"wait, or {as_typed('up', file)}, which ends every run there"
        )
    if head.returncode == 0:
        print(
            f"{file}: the cluster is up and used as it is; to apply a change of the file: "
            f"{as_typed('up', file)}, which ends every run there",
            flush=True,
        )
        return
    if not _NO_HEAD.search(output):
        reason = output[-200:] or f"exit code {head.returncode}"
        raise UserError(
            f"{file}: Ray cannot tell whether the cluster is up ({reason}); nothing was started: "
            f"try {as_typed('up', file)}, then submit again"
        )
    try:
        code = run_shown("up", "--yes", str(file))
    except KeyboardInterrupt:
        say(f"\n{file}: {_take_down(file)}")
        raise
    if code != 0:
        raise UserError(f"{file}: ray up failed (exit code {code}); {_take_down(file)}")


def _take_down(file: Path) -> str:
    """Take down a cluster that this command began to start; a line about the outcome."""
    costs = "check whether machines are left, they may cost money"
    try:
        code = run_captured(["down", "--yes", str(file)]).returncode
    except KeyboardInterrupt:
        say(f"\n{as_typed('down', file)} was interrupted: {costs}")
        raise
    if code == 0:
        return "the machines that it had started were taken down again"
    return f"{as_typed('down', file)} failed (exit code {code}): {costs}"

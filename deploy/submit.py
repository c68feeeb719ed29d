"""`raydqn cluster submit`: a cluster of `ray up`, a job on it, and its output here.

Everything goes through Ray's own commands, and through SSH alone: the dashboard, which takes jobs,
listens on the head's loopback only, and a tunnel leads there.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from common.config import Config, to_toml
from common.types import UserError
from deploy.shipping import code_for

TUNNEL_S = 60.0
"""How long the tunnel may take to stand."""
END_S = 10.0
DASHBOARD_PORT = 8265
RUNS = "raydqn/runs"
"""Where runs lie on the head, below its user's home."""
CONFIG = "submitted.toml"
_NO_HEAD = re.compile(r"Head node of cluster .* not found|ResourceGroupNotFound")
_NOT_READY = re.compile(r"Head node \(.*\) is in state")
"""What Ray says of a cluster that is not up, and of one whose head is not set up."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def new_name(preset: str) -> str:
    """`cartpole-20260101-120000`: of the run, and of its job."""
    return f"{preset}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def submit(file: Path, config: Config, name: str) -> int:
    """Bring the cluster up if it is not, train there, and show what the run says until it ends.

    Args:
        file: of `ray up`.
        config: of the run.
        name: of the run, and of its job.

    Returns:
        The exit code of `ray job submit`: 0 if the run ended well.

    Raises:
        UserError: a name that cannot be one, or one of Ray's commands failed; a cluster that this
            command began to bring up was taken down again.
        KeyboardInterrupt: while the cluster came up, likewise; or before the job was sent.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--name={name}: must be letters, digits, dots, - and _, at most 100")
    _up(file)
    hints(file, name)
    stays = f"the cluster stays up; to end it: {_command('down', file)}"
    try:
        with tempfile.TemporaryDirectory() as folder, _tunnel(file) as port:
            code = _follow(Path(folder), config, name, port)
    except KeyboardInterrupt:
        print(f"\n{stays}", file=sys.stderr)
        raise
    if code != 0:
        print(stays, file=sys.stderr)
    return code


def _follow(folder: Path, config: Config, name: str, port: int) -> int:
    """Ship the job from `folder`, and show what it says; see `submit`."""
    stage(folder, config)
    command = [
        *("job", "submit", "--address", f"http://127.0.0.1:{port}"),
        *("--working-dir", str(folder), "--submission-id", name, "--"),
        *entrypoint(name),
    ]
    try:
        return subprocess.run([_ray(), *command], env=_environment(), check=False).returncode
    except KeyboardInterrupt:
        print(f"\nno longer following; the run goes on as job {name}", file=sys.stderr)
        return 0


def entrypoint(name: str) -> list[str]:
    """What the job runs, by the head's shell, in the folder that was shipped."""
    run = f"~/{RUNS}/{name}"  # no shell expands it, the command itself does
    train = "python -m deploy train --address auto"
    return [*train.split(), "--config", CONFIG, "--run-dir", run]


def stage(folder: Path, config: Config) -> None:
    """Put together what the job needs: the code, as it is here, and the configuration."""
    for path in code_for(config.env.id):
        if path.is_file():
            shutil.copy(path, folder)
        else:
            ignored = shutil.ignore_patterns("__pycache__", ".git")
            shutil.copytree(path, folder / path.name, ignore=ignored)
    (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")


def hints(file: Path, name: str) -> None:
    """Say what else can be done with the run, before its output fills the screen."""
    run = f"~/{RUNS}/{name}"
    print(f"run {name}; from another terminal:")
    for what, command in (
        ("see how it goes", _command("exec", file, f"raydqn status {name} --address auto")),
        (
            "give it actors",
            _command("exec", file, f"raydqn scale {name} --address auto --actors N"),
        ),
        ("stop it, saving", _command("exec", file, f"ray job stop {name}")),
        ("follow it again", _command("exec", file, f"ray job logs --follow {name}")),
        # The `~` is the head's: not for the shell here to replace.
        ("fetch its folder", _command("rsync-down", file, run, ".")),
        ("end the cluster", _command("down", file)),
    ):
        print(f"  {what:<17} {command}", flush=True)


def _command(name: str, file: Path, *words: str) -> str:
    """A command of Ray's, for a shell."""
    return shlex.join(["ray", name, str(file), *words])


def _up(file: Path) -> None:
    """Bring the cluster up, unless it is: `ray up` would restart Ray, and end what runs there."""
    head = _run(["get-head-ip", str(file)], capture=True)
    said = " ".join(f"{head.stdout} {head.stderr}".split())  # Ray breaks long lines
    if _NOT_READY.search(said):
        raise UserError(
            f"{file}: its head is there, but Ray has not set it up: wait, or "
            f"{_command('up', file)}, which ends what runs there"
        )
    if head.returncode == 0:
        print(
            f"{file}: the cluster is up and taken as it is; after a change of the file: "
            f"{_command('up', file)}, which ends what runs there",
            flush=True,
        )
        return
    if not _NO_HEAD.search(said):
        reason = said[-200:] or f"exit code {head.returncode}"
        raise UserError(
            f"{file}: whether the cluster is up cannot be told ({reason}), so nothing was "
            f"started; see to it with {_command('up', file)}, then submit again"
        )
    try:
        code = _run(["up", "--yes", str(file)]).returncode
    except KeyboardInterrupt:
        print(f"\n{file}: {_down(file)}", file=sys.stderr)
        raise
    if code != 0:
        raise UserError(f"{file}: ray up failed (exit code {code}); {_down(file)}")


def _down(file: Path) -> str:
    """Take down what this command began to bring up, and say so."""
    code = _run(["down", "--yes", str(file)], capture=True).returncode
    if code == 0:
        return "what was begun was taken down again"
    return (
        f"{_command('down', file)} failed (exit code {code}): see what is left, it may cost money"
    )


@contextmanager
def _tunnel(file: Path) -> Iterator[int]:
    """A port of this machine that leads to the head's dashboard."""
    port = _free_port()
    command = [_ray(), "dashboard", "--port", str(port), "--remote-port", str(DASHBOARD_PORT)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, str(file)],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends what is followed, and then the tunnel
        )
        try:
            _wait_for_answer(port, process)
            yield port
        except TunnelError as error:
            log.seek(0)
            lines = log.read().strip().splitlines() or ["it said nothing"]
            raise UserError(
                f"{file}: no tunnel to the head ({error}): {lines[-1]}; if its "
                f"machines began anew: {_command('up', file)}; to end it: {_command('down', file)}"
            ) from None
        finally:
            _end(process)


class TunnelError(Exception):
    """The tunnel does not stand."""


def _wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard answers: the tunnel stands before the dashboard does."""
    deadline = time.monotonic() + TUNNEL_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TunnelError(f"exit code {process.returncode}")
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            asking.request("GET", "/api/version")
            asking.getresponse()  # of any kind: it may want a token
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        else:
            return
        finally:
            asking.close()
    raise TunnelError(f"no answer within {TUNNEL_S:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and the SSH below it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _ray() -> str:
    """Ray's command of this environment, not one that happens to be on the path."""
    beside = Path(sys.executable).parent / "ray"
    found = str(beside) if beside.is_file() else shutil.which("ray")
    if found is None:
        raise UserError("the command `ray` is not there: pip install 'ray[default]'")
    return found


def _environment() -> Mapping[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


def _run(arguments: Sequence[str], capture: bool = False) -> subprocess.CompletedProcess[str]:
    """A command of Ray's, to its end; `capture`: nobody is shown what it says."""
    return subprocess.run(
        [_ray(), *arguments],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=capture,
        text=True,
        check=False,
    )

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
import signal
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
from common.errors import UserError
from deploy.runtime.connect import TOKEN_HINT
from deploy.runtime.packaging import code_for

TUNNEL_S = 60.0
"""How long the tunnel may take to stand."""
END_S = 10.0
DASHBOARD_PORT = 8265
RUNS = "raydqn/runs"
"""Where runs lie on the head, below its user's home."""
CONFIG = "submitted.toml"
GOES_ON = ("PENDING", "RUNNING")
MAX_BYTES = 100 << 20
"""Of what a job carries: it is kept in the head's memory, and Ray takes 500 MiB in all."""
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", ".*")
_NO_HEAD = re.compile(r"Head node of cluster .* not found|ResourceGroupNotFound")
_NOT_READY = re.compile(r"The head node being returned: \S+ is not `up-to-date`")
"""What Ray says of a cluster that is not up, and of one whose head is not set up."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def new_name(preset: str) -> str:
    """`cartpole-20260101-120000`: of the run, and of its job."""
    return f"{preset}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def submit(file: Path, config: Config, name: str) -> int:
    """Bring the cluster up if it is not, train there, and show what the run says until it ends.

    SIGTERM and SIGHUP do what Ctrl-C does.

    Args:
        file: of `ray up`.
        config: of the run.
        name: of the run, and of its job.

    Returns:
        The exit code of `ray job submit`: 0 if the run ended well; or if it goes on, and Ctrl-C
        ended the following.

    Raises:
        UserError: a name that cannot be one, or one of Ray's commands failed; a cluster that this
            command began to bring up was taken down again.
        KeyboardInterrupt: while the cluster came up, likewise; or before the job was sent.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--name={name}: must be letters, digits, dots, - and _, at most 100")
    stays = f"the cluster stays up; to end it: {_command('down', file)}"
    with _every_end_as_by_ctrl_c(), tempfile.TemporaryDirectory() as folder:
        stage(Path(folder), config)  # whatever is wrong here costs no machine
        _up(file)
        try:
            with _tunnel(file) as port:
                address = f"http://127.0.0.1:{port}"
                if _state(name, address):
                    raise UserError(
                        f"--name={name}: the cluster has had a job of that name: name another; "
                        f"{stays}"
                    )
                hints(file, name)
                code, goes_on = _follow(Path(folder), name, address)
        except KeyboardInterrupt:
            _say(f"\n{stays}")
            raise
    if goes_on:
        _say(f"\nno longer following; the run goes on as job {name}")
    elif code != 0:
        _say(stays)
    return code


class _EndedError(KeyboardInterrupt):
    """By a signal that, unlike Ctrl-C in a terminal, may have reached this command alone."""


@contextmanager
def _every_end_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, or a terminal that is closed, would leave the tunnel, or a cluster half set up.

    What is ignored (`nohup`) stays so. What ends it is ignored from then on, by what it starts as
    well, so that it can tidy up: a terminal that is closed may send its signal twice.
    """
    ends = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]

    def interrupt(number: int, frame: object) -> None:
        for one in ends:
            signal.signal(one, signal.SIG_IGN)
        raise _EndedError

    for number in ends:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ends:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What would end this command counts when this is over."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)


def _in_sight(*arguments: str) -> int:
    """A command of Ray's, to its end, which Ctrl-C brings about for both; its exit code."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with _uninterrupted():
            process = subprocess.Popen(
                [_ray(), *arguments], env=_environment(), stdin=subprocess.DEVNULL
            )
        return process.wait()
    except KeyboardInterrupt as error:
        if process is not None:
            if isinstance(error, _EndedError):
                process.send_signal(signal.SIGINT)  # so that it ends what it has started itself
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        raise
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def _follow(folder: Path, name: str, address: str) -> tuple[int, bool]:
    """Ship the job from `folder`, and show what it says.

    Returns:
        The exit code, 0 after Ctrl-C; whether the run goes on, followed by nobody.

    Raises:
        KeyboardInterrupt: before the cluster took the job.
    """
    shipped = ("--working-dir", str(folder), "--submission-id", name)
    try:
        code = _in_sight(
            *("job", "submit", "--address", address, *shipped), "--", *entrypoint(name)
        )
    except KeyboardInterrupt:
        if _state(name, address) not in GOES_ON:
            raise
        return 0, True
    return code, code != 0 and _state(name, address) in GOES_ON


def _state(name: str, address: str) -> str:
    """Of a job: `PENDING`, `RUNNING`, or what became of it; empty: there is none."""
    told = _run(["job", "status", "--address", address, name])
    state = re.search(
        "PENDING|RUNNING|STOPPED|SUCCEEDED|FAILED", told.stdout.replace(name, "").upper()
    )
    return state[0] if told.returncode == 0 and state else ""


def entrypoint(name: str) -> list[str]:
    """What the job runs, by the head's shell, in the folder that was shipped."""
    run = f"~/{RUNS}/{name}"  # no shell expands it, the command itself does
    train = "python -m deploy train --address auto"
    return [*train.split(), "--config", CONFIG, "--run-dir", run]


def stage(folder: Path, config: Config) -> None:
    """Put together what the job needs: the code, as it is here, and the configuration.

    Raises:
        UserError: a file cannot be copied, or it is more than a job may carry.
    """
    for path in code_for(config.env.id):
        try:
            if path.is_file():
                shutil.copy(path, folder)
            else:
                shutil.copytree(path, folder / path.name, ignore=_LEFT_BEHIND)
        except shutil.Error as error:  # of several files
            source, _, reason = error.args[0][0]
            raise UserError(f"{source}: cannot be shipped ({reason})") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be shipped ({error.strerror})") from None
    (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise UserError(
            f"env.id={config.env.id}: what is to be shipped has {size >> 20:,} MiB: must be at "
            f"most {MAX_BYTES >> 20}; keep data out of the package"
        )


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
    head = _run(["get-head-ip", str(file)])
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
        code = _in_sight("up", "--yes", str(file))
    except KeyboardInterrupt:
        _say(f"\n{file}: {_down(file)}")
        raise
    if code != 0:
        raise UserError(f"{file}: ray up failed (exit code {code}); {_down(file)}")


def _down(file: Path) -> str:
    """Take down what this command began to bring up, and say so."""
    costs = "see what is left, it may cost money"
    try:
        code = _run(["down", "--yes", str(file)]).returncode
    except KeyboardInterrupt:
        _say(f"\n{_command('down', file)} was interrupted: {costs}")
        raise
    if code == 0:
        return "what was begun was taken down again"
    return f"{_command('down', file)} failed (exit code {code}): {costs}"


@contextmanager
def _tunnel(file: Path) -> Iterator[int]:
    """A port of this machine that leads to the head's dashboard."""
    port = _free_port()
    command = [_ray(), "dashboard", "--port", str(port), "--remote-port", str(DASHBOARD_PORT)]
    with tempfile.TemporaryFile("w+") as log:
        process: subprocess.Popen[bytes] | None = None
        try:
            with _uninterrupted():
                process = subprocess.Popen(
                    [*command, str(file)],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C ends what is followed, and then the tunnel
                )
            _wait_for_answer(port, process)
            yield port
        except TokenError:
            raise UserError(f"{file}: the cluster refused the token: {TOKEN_HINT}") from None
        except TunnelError as error:
            log.seek(0)
            lines = log.read().strip().splitlines() or ["it said nothing"]
            raise UserError(
                f"{file}: no tunnel to the head ({error}): {lines[-1]}; if its "
                f"machines began anew: {_command('up', file)}; to end it: {_command('down', file)}"
            ) from None
        finally:
            if process is not None:
                _end(process)


class TunnelError(Exception):
    """The tunnel does not stand."""


class TokenError(Exception):
    """The cluster has another token."""


def _wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard answers: the tunnel stands before the dashboard does."""
    deadline = time.monotonic() + TUNNEL_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TunnelError(f"exit code {process.returncode}")
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            asking.request("GET", "/api/version", headers={"Authorization": f"Bearer {_token()}"})
            answer = asking.getresponse().status
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        else:
            if answer in (401, 403):
                raise TokenError
            return
        finally:
            asking.close()
    raise TunnelError(f"no answer within {TUNNEL_S:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and the SSH below it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as events:
        events.bind(("127.0.0.1", 0))
        port: int = events.getsockname()[1]
    return port


def _ray() -> str:
    """Ray's command of this environment, not one that happens to be on the path."""
    beside = Path(sys.executable).parent / "ray"
    found = str(beside) if beside.is_file() else shutil.which("ray")
    if found is None:
        raise UserError("the command `ray` is not there: pip install 'ray[default]'")
    return found


def _token() -> str:
    """The token of whoever gives the command, from where Ray takes it."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token = token or Path(path).read_text(encoding="utf-8", errors="replace")
    return token.strip()


def _environment() -> Mapping[str, str]:
    """For commands of Ray's: they talk to the cluster of the file, and to no other."""
    elsewhere = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_JOB_SUBMIT_HOOK")
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command of Ray's, to its end; nobody is shown what it says."""
    return subprocess.run(
        [_ray(), *arguments],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _say(line: str) -> None:
    """To whoever gave the command; its terminal may be closed."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)

"""Ray's own commands (`ray up`, `ray job submit`, …), run as child processes.

Ctrl-C, SIGTERM and a closed terminal end a command and its children, but leave time to clean up.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError
from common.text import printable

END_S = 10.0
"""Longest wait for a child to end after its signal."""


class EndedError(KeyboardInterrupt):
    """A signal ended this command. Unlike Ctrl-C, it may not have reached the children."""


@contextmanager
def every_signal_as_ctrl_c() -> Iterator[None]:
    """Raise `EndedError` on SIGTERM and SIGHUP, so that tunnels and clusters are cleaned up.

    An ignored signal (`nohup`) stays ignored. After the first signal, this command and its later
    children ignore both: a closed terminal may send its signal twice.
    """
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]

    def interrupt(number: int, frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise EndedError

    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Deliver SIGINT, SIGTERM and SIGHUP at the end of the block."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)

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
        for first in received[:1]:
            signal.raise_signal(first)


def run_shown(*arguments: str) -> int:
    """Run a command of Ray's with its output on the terminal; the exit code.

    Raises:
        KeyboardInterrupt: a signal ended this command; the child has ended, too.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                [ray_path(), *arguments], env=environment(), stdin=subprocess.DEVNULL
            )
        return process.wait()
    except KeyboardInterrupt as error:
        if process is not None:
            if isinstance(error, EndedError):
                process.send_signal(signal.SIGINT)  # so that it ends its own children
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        raise
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def run_captured(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Ray's without showing its output."""
    return subprocess.run(
        [ray_path(), *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def ray_path() -> str:
    """Path of the `ray` command of this Python environment, else of the first one on PATH.

    Raises:
        UserError: there is no `ray` command.
    """
    beside = Path(sys.executable).parent / "ray"
    found = str(beside) if beside.is_file() else shutil.which("ray")
    if found is None:
        raise UserError("the command `ray` is not installed: pip install 'ray[default]'")
    return found


def environment() -> Mapping[str, str]:
    """Environment variables for Ray's commands: they talk to the file's cluster and no other."""
    elsewhere = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_JOB_SUBMIT_HOOK")
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


def token() -> str:
    """The user's authentication token, read from the places where Ray reads it; else empty."""
    found = os.environ.get("RAY_AUTH_TOKEN", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        found = found or Path(path).read_text(encoding="utf-8", errors="replace")
    return found.strip()


def as_typed(name: str, file: Path, *words: str) -> str:
    """A command of Ray's for a cluster file, as the user types it into a shell."""
    return shlex.join(["ray", name, str(file), *words])


def say(line: str) -> None:
    """Print a line for the user on standard error, after an empty one where it begins with that.

    The terminal may be closed.
    """
    with suppress(OSError):
        text = printable(line.removeprefix("\n"))
        print(f"\n{text}" if line.startswith("\n") else text, file=sys.stderr, flush=True)

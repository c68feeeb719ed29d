"""Silence for code of Ray's that prints and logs."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

AUTOSCALER_LOGGER = "ray.autoscaler"


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of Ray within the block; its exceptions tell all that counts.

    That covers Python's standard output and error, the file descriptor of standard error, which
    Ray's compiled code writes to, and the logger of Ray's autoscaler.
    """
    sys.stderr.flush()
    logger = logging.getLogger(AUTOSCALER_LOGGER)
    level, before = logger.level, os.dup(2)
    logger.setLevel(logging.CRITICAL)
    output = io.StringIO()
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        logger.setLevel(level)


@contextmanager
def without_native_lines() -> Iterator[None]:
    """Keep lines that Ray's compiled code logs off standard error within the block.

    Ray writes errors there as well as into its own logs: `[2026-… E 123 456] rpc_client.h:204: …`.
    A small process of its own reads the file descriptor, and passes on all other lines: those of
    an environment's libraries, of child processes, and of an abort. If this process ends without
    leaving the block, Ray's last lines are passed on, too, since they may tell why.

    Python's own standard error does not take this way. Only a command's process is changed (see
    `be_command`), not a program that uses the Python API.
    """
    global _direct  # the stream outlives the block: log handlers may hold it
    if not (_is_command and _is_own(sys.stderr)):
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    if _direct is None:
        _direct = os.fdopen(os.dup(before), "w", 1, errors="backslashreplace")
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", FILTER, str(os.getpid())],
            stdin=reader, stdout=subprocess.DEVNULL, stderr=before, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(reader)
    python: Any = sys.stderr
    of_command = getattr(python, "original", None)  # a command's stream goes on around ours
    if of_command is not None:
        python.original = _direct
    else:
        sys.stderr = _direct
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        if of_command is not None:
            python.original = of_command
        else:
            sys.stderr = python
        with suppress(OSError):  # the filter was killed
            os.write(2, END)
        os.dup2(before, 2)
        os.close(before)
        with suppress(subprocess.TimeoutExpired):  # nothing reads the standard error
            process.wait(FILTERED_WITHIN_S)


def be_command() -> None:
    """Tell that this process is a command's: its standard error may be filtered."""
    global _is_command
    _is_command = True


_is_command = False
_direct: TextIO | None = None
FILTERED_WITHIN_S = 1.0
"""Time that the filter has for the last lines."""
END = b"\0raydqn: end"
FILTER = f"""
import os, re, select, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
parent, end = int(sys.argv[1]), {END!r}
of_ray = re.compile(
    rb"(\\x1b\\[[0-9;]*m|\\([^)]*\\)| )*\\[\\d{{4}}-\\d\\d-\\d\\d [\\d:,.]+ [A-Z] \\d+ \\d+\\] "
)
held, rest, ended = [], b"", False
while not ended:
    ready = select.select([0], [], [], 1.0)[0]
    data = os.read(0, 65536) if ready else b""
    if ready and not data or not ready and os.getppid() != parent:
        break
    data = rest + data
    ended = end in data
    lines = data.replace(end, b"").splitlines(keepends=True)
    is_whole = ended or not ready or not lines or lines[-1].endswith((b"\\n", b"\\r"))
    rest = b"" if is_whole else lines.pop()
    for line in lines:
        if of_ray.match(line):
            held = [*held[-19:], line]
        else:
            os.write(2, line)
if not ended:
    os.write(2, b"".join([*held, rest]))
"""
"""The program that reads standard error; its own is that of the command."""


def _is_own(stream: Any) -> bool:
    """Whether a stream is the standard error that the interpreter opened for the process."""
    own, stream = sys.__stderr__, getattr(stream, "original", stream)
    try:
        return own is not None and stream is own and own.fileno() == 2
    except (ValueError, OSError):  # closed
        return False

"""Silence for code of Ray's that prints and logs, and its lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

AUTOSCALER_LOGGER = "ray.autoscaler"
READ_EVERY_S = 1.0
"""Interval between two looks at the lines of compiled code."""


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
def native_lines_to(receive: Callable[[str], object]) -> Iterator[None]:
    """Hand lines that compiled code writes to standard error within the block to a function.

    Ray's compiled code logs errors there: `[2026-… E 123 456] rpc_client.h:204: …`. Python's own
    standard error stays as it is: messages and tracebacks reach the user.

    The lines go through a file that a thread reads: a full pipe would block its writer. If the
    process is killed, or compiled code aborts it, the file stays in the folder of temporary files.
    Where standard error is not the process's own (a notebook, a test), nothing is changed.

    Args:
        receive: called with one line, in another thread.
    """
    python = sys.stderr
    if not _is_own(python):
        yield
        return
    python.flush()
    number, name = tempfile.mkstemp(prefix=f"raydqn-{os.getpid()}-", suffix=".err")
    fcntl.fcntl(number, fcntl.F_SETFL, os.O_APPEND)  # it is emptied while others write
    before, ended = os.dup(2), threading.Event()

    def read() -> None:
        while not ended.wait(READ_EVERY_S):
            _take_lines(number, receive)

    thread = threading.Thread(target=read, name="native-lines", daemon=True)
    with os.fdopen(os.dup(before), "w", 1, errors="backslashreplace") as stream:
        sys.stderr = stream
        os.dup2(number, 2)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            os.dup2(before, 2)
            sys.stderr = python
            _take_lines(number, receive, last=True)
            for descriptor in (before, number):
                os.close(descriptor)
            Path(name).unlink(missing_ok=True)


def _is_own(stream: Any) -> bool:
    """Whether a stream is the standard error that the interpreter opened for the process."""
    own = sys.__stderr__
    try:
        return own is not None and stream is own and own.fileno() == 2
    except (ValueError, OSError):  # closed
        return False


def _take_lines(file: int, receive: Callable[[str], object], last: bool = False) -> None:
    """Hand on all lines of a file, and empty it; not while a line is incomplete, unless `last`."""
    text = os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")
    if text.endswith("\n") or last:
        os.ftruncate(file, 0)
        for line in filter(None, map(str.strip, text.splitlines())):
            receive(line)

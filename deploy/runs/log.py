"""The log of a run: every event with its time, level and cause, in `run.log` of the run folder."""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from io import FileIO
from itertools import pairwise
from pathlib import Path

from common.text import printable

MAX_BYTES = 1 << 20
"""Of one file; a full one becomes `run.log.1`, that one `run.log.2`, and so on."""
FILES = 5
EVENTS = 8
"""Number of events that a status shows."""
TAIL_BYTES = (1 << 16, 1 << 20)
"""Bytes at the end of a log in which events are looked for: more of them if there are too few."""
INDENT = "    "
_HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\S+) ([A-Z]+) (.*)")


class RunLog:
    """Appends events to a file that is rotated; later attempts of the run append to the same file.

    An event that cannot be written is lost, and the run continues: `failed` is called with the
    reason, once. It is none of `logging`'s handlers: no configuration of `logging` reaches it, and
    at its end the interpreter does not wait for a disk that hangs.
    """

    def __init__(self, path: Path, failed: Callable[[str], None]) -> None:
        """A log that opens its file with the first event.

        Args:
            path: of the newest file.
            failed: called with one line when an event cannot be written for the first time.
        """
        self._path = path
        self._failed: Callable[[str], None] | None = failed
        self._file: FileIO | None = None
        self._cut_off = False  # the last line, by a disk that became full
        self._closed = False

    def notify(
        self, text: str, level: int = logging.INFO, detail: str = "", at_s: float | None = None
    ) -> None:
        """Append an event; after `close` it is ignored.

        Args:
            text: one line; further lines count as detail.
            level: of `logging`.
            detail: lines below it, such as a traceback.
            at_s: seconds since the epoch; by default now.
        """
        if self._closed:
            return
        lines = [printable(line) for line in (*text.splitlines(), *detail.splitlines())] or [""]
        when = datetime.fromtimestamp(time.time() if at_s is None else at_s).astimezone()
        name = logging.getLevelName(level)
        head = f"{when.isoformat(timespec='milliseconds')} {name} {lines[0]}"
        event = "\n".join([head, *(INDENT + line for line in lines[1:])]) + "\n"
        try:
            self._append(event.encode("utf-8", "backslashreplace"))
        except OSError as error:
            failed, self._failed = self._failed, None
            if failed is not None:
                reason = error.strerror or error
                failed(f"{self._path}: cannot be written: {reason}; the run continues without it")

    def close(self) -> None:
        """Close the file. May be called again."""
        self._closed = True
        self._close_file()

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        size = os.fstat(self._file.fileno()).st_size
        if size and size + len(data) > MAX_BYTES:
            self._file = self._rotate()
        rest = b"\n" + data if self._cut_off else data
        while rest:  # one call may write a part
            rest = rest[self._file.write(rest) :]
            self._cut_off = bool(rest)

    def _rotate(self) -> FileIO:
        """Rename all files, the oldest away, and begin another."""
        self._close_file()
        older = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, FILES))]
        for path, next_one in reversed(list(pairwise(older))):
            with suppress(FileNotFoundError):
                path.replace(next_one)
        return self._path.open("ab", buffering=0)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # of a disk that fails; that was reported
                file.close()


def last_events(
    path: Path, count: int = EVENTS, least: int = logging.DEBUG
) -> list[dict[str, str]]:
    """The last events of a log, oldest first, each with `at`, `level`, `text` and `detail`.

    An empty list if there is no log, or it cannot be read.

    Args:
        path: of the newest file.
        count: number of events.
        least: level of `logging`; events below it do not count.
    """
    events: list[dict[str, str]] = []
    for length in TAIL_BYTES:
        data = _tail(path, length)
        events = [event for event in _events_in(data) if _level(event["level"]) >= least]
        if len(events) >= count or len(data) < length:
            break
    return events[-count:]


def _events_in(data: bytes) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for line in data.decode("utf-8", "replace").split("\n"):
        head = _HEAD.fullmatch(line)
        if head is not None:
            found.append({"at": head[1], "level": head[2], "text": head[3], "detail": ""})
        elif found and line.startswith(INDENT):
            line = line.removeprefix(INDENT)
            before = found[-1]["detail"]
            found[-1]["detail"] = f"{before}\n{line}" if before else line
    return found


def _level(name: str) -> int:
    """The number of a level; one that `logging` does not know counts as the highest."""
    return logging.getLevelNamesMapping().get(name, logging.CRITICAL)


def _tail(path: Path, length: int) -> bytes:
    """The last bytes of a log, of the file before it too where it has just been rotated."""
    data = b""
    for one in (path, path.with_name(f"{path.name}.1")):
        with suppress(OSError), one.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - length))
            data = file.read() + data
        if len(data) >= length:
            break
    return data


def detail_of(error: BaseException) -> str:
    """The whole traceback of an error, with the details that the errors in its chain carry."""
    lines = ["".join(traceback.format_exception(error))]
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        # RemoteDiedError.detail is the whole of Ray's text, EnvironmentFailedError.trace the
        # frames of the environment's code, both from another process.
        lines += filter(None, (getattr(one, "detail", ""), getattr(one, "trace", "")))
        one = one.__cause__ or one.__context__
    return "\n".join(lines)

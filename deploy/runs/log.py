"""The log of a run: every event with its time, level and cause, in `run.log` of the run folder."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

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
    reason, once. The logger is the run's own: no configuration of `logging` reaches it.
    """

    def __init__(self, path: Path, failed: Callable[[str], None]) -> None:
        """A log that opens its file with the first event.

        Args:
            path: of the newest file.
            failed: called with one line when an event cannot be written for the first time.
        """
        self._logger = logging.Logger("raydqn.run", logging.DEBUG)
        self._handler = _Handler(path, failed)
        self._logger.addHandler(self._handler)
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
        lines = [*text.splitlines(), *detail.splitlines()] or [""]
        record = logging.LogRecord("raydqn.run", level, "", 0, "", None, None)
        record.created = at_s if at_s is not None else record.created
        when = datetime.fromtimestamp(record.created).astimezone()
        head = f"{when.isoformat(timespec='milliseconds')} {record.levelname} {lines[0]}"
        record.msg = "\n".join([head, *(INDENT + line for line in lines[1:])])
        self._logger.handle(record)

    def close(self) -> None:
        """Close the file. May be called again."""
        self._closed = True
        with suppress(OSError):  # text that a full disk refused before; it was reported then
            self._handler.close()


class _Handler(RotatingFileHandler):
    """Reports the first failed write; the one hook that `logging` offers is this method."""

    def __init__(self, path: Path, failed: Callable[[str], None]) -> None:
        super().__init__(
            path, maxBytes=MAX_BYTES, backupCount=FILES - 1, encoding="utf-8", delay=True,
            errors="backslashreplace",
        )  # fmt: skip
        self._failed: Callable[[str], None] | None = failed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging's name
        """Called by `emit` where it has caught an exception."""
        failed, self._failed = self._failed, None
        if failed is not None:
            error = sys.exception()
            reason = getattr(error, "strerror", None) or error
            failed(
                f"{self.baseFilename}: cannot be written: {reason}; the run continues without it"
            )


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

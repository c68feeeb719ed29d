"""Events of one attempt of a run: sent to its log and to its view."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from common.errors import shorten, without_colours
from common.text import counted
from deploy.reporting.view import ProgressView
from deploy.runs.disk import Disk
from deploy.runs.log import RunLog

MAX_WAITING = 1_000
"""Events kept until the log is open, and while its disk hangs; there are a few dozen."""
OF_A_DEATH = "A worker died or was killed"
"""First words of Ray's message about the end of a part's process."""


class RunEvents:
    """A `ProgressView` that sends every event to the log, and those from INFO on to a view.

    Events before `open_log` are kept, and written with their own times when the log is open. A
    signal handler, or another thread, may notify at any time, even while an event is being written.
    """

    def __init__(self, view: ProgressView) -> None:
        """Events of an attempt that has no log yet."""
        self._view = view
        self._log: RunLog | None = None
        self._disk = Disk()
        self._is_over = False
        self._waiting: deque[tuple[str, int, str, float]] = deque(maxlen=MAX_WAITING)
        self._dropped = 0  # of those that waited
        self._writing = threading.Lock()

    def update(self, report: dict[str, Any]) -> None:
        """Show a report; the log has none, because metrics.jsonl has all of them."""
        self._view.update(report)

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Log an event, and show it from INFO on."""
        self.record(text, level, detail)
        if level >= logging.INFO:
            self._view.notify(text, level, detail)

    def record(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Log an event without showing it; after the end of the log it is ignored."""
        if self._is_over:
            return
        self._dropped += len(self._waiting) == MAX_WAITING
        self._waiting.append((text, level, detail, time.time()))
        self._write_soon()

    def record_ray(self, text: str) -> None:
        """Log a message of Ray's own; the event of a part's death says that one already."""
        text = without_colours(text).strip()
        level = logging.DEBUG if text.startswith(OF_A_DEATH) else logging.WARNING
        self.record(f"Ray: {shorten(text)}", level, text)

    def open_log(self, path: Path, disk: Disk | None = None) -> None:
        """Log events to a file from now on, those that came before included.

        Args:
            path: of the log.
            disk: writes it; by default each event is written when it comes.
        """
        self._disk = disk or self._disk
        self._log = RunLog(path, lambda text: self._view.notify(text, logging.WARNING, ""))
        self._write_soon()

    def close_log(self) -> None:
        """Close the log, after the events that wait for its disk. May be called again."""
        log, self._log, self._is_over = self._log, None, True
        if log is not None:
            self._disk.submit(lambda: self._close(log), name="end of the log")

    def close(self) -> None:
        """Close view and log."""
        try:
            self._view.close()
        finally:
            self.close_log()

    def _write_soon(self) -> None:
        log = self._log
        if log is not None:
            self._disk.submit(lambda: self._write(log), name="log")

    def _close(self, log: RunLog) -> None:
        self._write(log)
        log.close()

    def _write(self, log: RunLog) -> None:
        """Write all waiting events, unless that is being done: an event that comes then is seen.

        Nothing waits for the lock, because a signal handler may have interrupted its holder.
        """
        while self._waiting and self._writing.acquire(blocking=False):
            try:
                if self._dropped:
                    missing = counted(self._dropped, "event")
                    text = f"too many events waited to be written: {missing} left out here"
                    self._dropped = 0
                    log.notify(text, logging.WARNING)
                while self._waiting:
                    text, level, detail, at_s = self._waiting.popleft()
                    log.notify(text, level, detail, at_s)
            finally:
                self._writing.release()

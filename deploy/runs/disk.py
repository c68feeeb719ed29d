"""Writes to the run folder in a thread of their own: a disk that hangs does not stop the run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

MAX_WAITING = 2_000
"""Writes that wait, at the most, half an hour of reports; the oldest are dropped first."""

Write = Callable[[], None]


class Disk:
    """Runs writes one after the other, in the order in which they come.

    Attributes:
        dropped: writes that were dropped because too many waited.
    """

    def __init__(self, background: bool, max_waiting: int = MAX_WAITING) -> None:
        """No write waits.

        Args:
            background: run writes in a thread. Otherwise `write` runs them itself.
            max_waiting: see `MAX_WAITING`.
        """
        self.dropped = 0
        self._background = background
        self._waiting: deque[tuple[Write, Callable[[OSError | None], None]]] = deque()
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._since_s: float | None = None  # when the write in progress began
        self._ending = False

    def write(self, write: Write, done: Callable[[OSError | None], None]) -> None:
        """Run a write.

        Args:
            write: writes a file.
            done: called with its error, or None; in the background, in the thread of writes.
        """
        if not self._background:
            _run(write, done)
            return
        with self._changed:
            self._waiting.append((write, done))
            if len(self._waiting) > self._max_waiting:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
            self._thread.start()

    @property
    def stuck_s(self) -> float:
        """Seconds for which the write in progress has lasted; 0 without one."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def finish(self, timeout_s: float) -> bool:
        """Run the writes that wait; whether all are done after at most `timeout_s`."""
        if self._thread is None:
            return True
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._ending:
                        return
                    self._changed.wait()
                write, done = self._waiting.popleft()
            self._since_s = time.monotonic()
            _run(write, done)
            self._since_s = None


def _run(write: Write, done: Callable[[OSError | None], None]) -> None:
    try:
        write()
    except OSError as error:
        done(error)
    else:
        done(None)

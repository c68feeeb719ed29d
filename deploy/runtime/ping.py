"""Pings of remotes whose calls run in their main thread: see `deploy.runtime.heartbeats`."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from deploy.runtime import ray_private
from deploy.runtime.heartbeats import HEARTBEAT_EVERY_S
from deploy.runtime.interface import Place
from deploy.runtime.ray_actor import RemoteFuture

READ_AFTER_S = 0.2
"""Age of a ping at the first read; also the interval until the second one."""
READS_PER_S = 200.0
"""Largest number of reads of all pings together: Ray's control store has other work."""


class Ping(RemoteFuture):
    """A heartbeat: the reply to a ping, or a new heartbeat of a call."""

    def __init__(self, reference: Any, part: str, key: str, reader: HeartbeatReader) -> None:
        """A ping that waits behind the remote's current call.

        Args:
            reference: Ray's, of the ping's call.
            part: names the remote in errors.
            key: of the remote's heartbeats.
            reader: reads these.
        """
        super().__init__(reference, part)
        self.key = key
        self.place: Place | None = None
        self.first: tuple[str | None] | None = None  # the heartbeat at the first read
        self._reader = reader
        self._asked_s = time.monotonic()
        self._is_watched = False

    def take(self, heartbeat: str | None) -> bool:
        """Take the value in the store; returns whether it is a heartbeat since the ping."""
        if self.first is None:
            self.first = (heartbeat,)
        elif heartbeat is not None and heartbeat != self.first[0]:
            _, host, pid = json.loads(heartbeat)
            self.place = Place(host, pid)
        return self.place is not None

    def done(self) -> bool:
        """Whether a heartbeat has come, without waiting."""
        if self.place is not None:
            return True
        if self.is_replied():
            self._reader.forget(self)
            return True
        if not self._is_watched and time.monotonic() - self._asked_s > READ_AFTER_S:
            self._is_watched = True
            self._reader.watch(self)
        return False

    def is_replied(self) -> bool:
        """Whether the remote has replied to the ping itself."""
        return super().done()

    def result(self) -> Any:
        """Wait for the place; see `RemoteFuture.result`."""
        import ray

        while not self.done():
            ray.wait([self.reference], timeout=READ_AFTER_S)
        return super().result() if self.place is None else self.place


class HeartbeatReader:
    """Reads heartbeats for the pings that wait, in a thread: Ray's store may not respond.

    The interval between two reads for a ping doubles up to the interval of heartbeats: a part
    that is pending placement keeps its ping waiting for hours.
    """

    def __init__(
        self,
        every_s: float = HEARTBEAT_EVERY_S,
        read: Callable[[str], str | None] = ray_private.published,
    ) -> None:
        """A reader without pings.

        Args:
            every_s: interval of heartbeats.
            read: returns the value that is published under a key.
        """
        self._every_s = every_s
        self._read = read
        self._changed = threading.Condition()
        # When the next read is due, and the interval that follows.
        self._pings: weakref.WeakKeyDictionary[Ping, tuple[float, float]] = (
            weakref.WeakKeyDictionary()
        )
        self._thread: threading.Thread | None = None

    def watch(self, ping: Ping) -> None:
        """Read for a ping until a heartbeat has come or the caller has dropped the ping."""
        with self._changed:
            self._pings[ping] = (time.monotonic(), READ_AFTER_S)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
                self._thread.start()

    def forget(self, ping: Ping) -> None:
        """Read for that ping no more."""
        with self._changed:
            self._pings.pop(ping, None)

    def _run(self) -> None:
        while True:
            due = self._wait_for_due()
            if due is None:
                return
            while due:  # a reference would keep a dropped ping
                self._read_for(due.pop())
                time.sleep(1 / READS_PER_S)

    def _wait_for_due(self) -> list[Ping] | None:
        """Pings whose read is due, the longest overdue last; None: no ping waits."""
        with self._changed:
            if not self._pings:
                self._thread = None
                return None
            now = time.monotonic()
            times = sorted(((due_s, id(p), p) for p, (due_s, _) in self._pings.items()))
            due = [ping for due_s, _, ping in reversed(times) if due_s <= now]
            first_s = times[0][0]
            del times
            if not due:
                self._changed.wait(min(first_s - now, self._every_s))
            return due

    def _read_for(self, ping: Ping) -> None:
        with suppress(Exception):  # the store is away: the ping stays open
            if ping.take(self._read(ping.key)):
                self.forget(ping)
        with self._changed:
            if ping in self._pings:
                interval_s = min(self._pings[ping][1], self._every_s)
                self._pings[ping] = (time.monotonic() + interval_s, 2 * interval_s)

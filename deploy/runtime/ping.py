"""Pings of remotes whose calls run in their main thread: see `deploy.runtime.beats`."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from deploy.runtime import ray_private
from deploy.runtime.interface import Place
from deploy.runtime.ray_actor import RemoteFuture

READ_EVERY_S = 0.2
"""Interval between two looks for beats while pings wait."""


class Ping(RemoteFuture):
    """A heartbeat: the reply to a ping, or a new beat during a call."""

    def __init__(self, reference: Any, part: str, key: str, reader: BeatReader) -> None:
        """A ping that waits behind the remote's current call.

        Args:
            reference: Ray's, of the ping's call.
            part: names the remote in errors.
            key: of the remote's beats.
            reader: looks for these.
        """
        super().__init__(reference, part)
        self.key = key
        self.place: Place | None = None
        self.first: tuple[str | None] | None = None  # the beat at the first look
        self._reader = reader
        self._asked_s = time.monotonic()
        self._is_watched = False

    def take(self, beat: str | None) -> bool:
        """Take what the store holds now; returns whether it is a beat since the ping."""
        if self.first is None:
            self.first = (beat,)
        elif beat is not None and beat != self.first[0]:
            _, host, pid = json.loads(beat)
            self.place = Place(host, pid)
        return self.place is not None

    def done(self) -> bool:
        """Whether a heartbeat has come, without waiting."""
        if self.place is not None:
            return True
        if self.is_replied():
            self._reader.forget(self)
            return True
        if not self._is_watched and time.monotonic() - self._asked_s > READ_EVERY_S:
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
            ray.wait([self.reference], timeout=READ_EVERY_S)
        return super().result() if self.place is None else self.place


class BeatReader:
    """Looks for beats of the remotes whose pings wait, in a thread: Ray's store may not respond."""

    def __init__(self, read: Callable[[str], str | None] = ray_private.published) -> None:
        """A reader without pings.

        Args:
            read: returns what is published under a key.
        """
        self._read = read
        self._lock = threading.Lock()
        self._pings: weakref.WeakSet[Ping] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def watch(self, ping: Ping) -> None:
        """Look for a beat until one has come or the caller has dropped the ping."""
        with self._lock:
            self._pings.add(ping)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
                self._thread.start()

    def forget(self, ping: Ping) -> None:
        """Look for no beat any more."""
        with self._lock:
            self._pings.discard(ping)

    def _run(self) -> None:
        while True:
            with self._lock:
                pings = list(self._pings)
                if not pings:
                    self._thread = None
                    return
            for ping in pings:
                with suppress(Exception):  # the store is away: the ping stays open
                    if ping.take(self._read(ping.key)):
                        self.forget(ping)
            del pings, ping  # a reference would keep a dropped ping
            time.sleep(READ_EVERY_S)

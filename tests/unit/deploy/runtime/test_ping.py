"""Heartbeats of a remote during a long call."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
import weakref

import pytest

from deploy.runtime import beats, ping
from deploy.runtime.beats import Beats
from deploy.runtime.interface import Place
from deploy.runtime.ping import BeatReader, Ping


class Queued(Ping):
    """A ping whose reply does not come."""

    def is_replied(self):
        return False


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(ping, "READ_EVERY_S", 0.01)
    monkeypatch.setattr(beats, "BEAT_EVERY_S", 0.02)


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def beat(count):
    return json.dumps([count, "node-3", 77])


def test_only_a_beat_since_the_ping_is_a_heartbeat():
    store = {"key": beat(4)}
    one = Queued(None, "actor-0", "key", BeatReader(store.get))
    assert not one.done()
    time.sleep(0.02)
    assert not one.done()  # from now on the reader looks
    wait_for(lambda: one.first is not None)
    time.sleep(0.03)
    assert not one.done(), "a stopped process has left this one behind"
    store["key"] = beat(5)
    wait_for(one.done)
    assert one.place == Place("node-3", 77)


def test_a_store_that_does_not_respond_and_a_ping_that_was_dropped_end_no_reader():
    calls = []

    def read(key):
        calls.append(key)
        raise OSError("no head")

    reader = BeatReader(read)
    one = Queued(None, "actor-0", "key", reader)
    reader.watch(one)
    wait_for(lambda: len(calls) > 2)
    dropped = weakref.ref(one)
    del one
    wait_for(lambda: gc.collect() >= 0 and dropped() is None)
    wait_for(lambda: reader._thread is None)


def test_beats_accompany_long_calls_only(monkeypatch):
    store = {}
    monkeypatch.setattr(beats.ray_private, "publish", store.__setitem__)
    monkeypatch.setattr(beats.ray_private, "unpublish", store.pop)
    one = Beats("key")
    time.sleep(0.06)
    assert not store
    one.call_from_s = time.monotonic()
    wait_for(lambda: json.loads(store.get("key", "[0]"))[0] > 2)
    one.call_from_s = math.inf
    wait_for(lambda: not store)
    assert any(thread.name == "heartbeat" for thread in threading.enumerate())

"""Heartbeats of a remote during a long call."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
import weakref

import pytest

from common.config_operation import MIN_HUNG_AFTER_S, SupervisionConfig
from common.errors import UserError
from deploy.runtime import heartbeats, ping
from deploy.runtime.heartbeats import Heartbeats, check_hung_after
from deploy.runtime.interface import Place
from deploy.runtime.ping import READ_AFTER_S, HeartbeatReader, Ping
from deploy.supervisor.reports import env_worker_overdue_s
from deploy.supervisor.timeouts import Timeouts


class Queued(Ping):
    """A ping whose reply does not come."""

    def is_replied(self):
        return False


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(ping, "READ_AFTER_S", 0.01)


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def heartbeat(count):
    return json.dumps([count, "node-3", 77])


def test_only_a_heartbeat_since_the_ping_counts():
    store = {"key": heartbeat(4)}
    one = Queued(None, "actor-0", "key", HeartbeatReader(0.02, store.get))
    assert not one.done()
    time.sleep(0.02)
    assert not one.done()  # from now on the reader looks
    wait_for(lambda: one.first is not None)
    time.sleep(0.03)
    assert not one.done(), "a stopped process has left this one behind"
    store["key"] = heartbeat(5)
    wait_for(one.done)
    assert one.place == Place("node-3", 77)


def test_a_store_that_does_not_respond_and_a_ping_that_was_dropped_end_no_reader():
    calls = []

    def read(key):
        calls.append(key)
        raise OSError("no head")

    reader = HeartbeatReader(0.02, read)
    one = Queued(None, "actor-0", "key", reader)
    reader.watch(one)
    wait_for(lambda: len(calls) > 2)
    dropped = weakref.ref(one)
    del one
    wait_for(lambda: gc.collect() >= 0 and dropped() is None)
    wait_for(lambda: reader._thread is None)


def test_reads_for_a_ping_become_rare_and_those_of_all_pings_are_bounded(monkeypatch):
    monkeypatch.setattr(ping, "READS_PER_S", 200.0)
    reads = []

    def read(key):
        reads.append(key)

    reader = HeartbeatReader(10.0, read)
    one = Queued(None, "actor-0", "pending", reader)
    reader.watch(one)
    time.sleep(0.5)
    assert 4 <= len(reads) <= 7, "at 0, 10, 30, 70, 150 and 310 ms"
    reads.clear()
    many = [Queued(None, f"actor-{i}", "key", reader) for i in range(500)]
    for each in many:
        reader.watch(each)
    time.sleep(0.5)
    assert 20 < len(reads) <= 102
    for each in [one, *many]:
        reader.forget(each)


def test_long_calls_send_heartbeats_and_short_ones_none(monkeypatch):
    store, removed = {}, []
    monkeypatch.setattr(heartbeats.ray_private, "publish", store.__setitem__)
    monkeypatch.setattr(heartbeats.ray_private, "unpublish", removed.append)
    one = Heartbeats("key", 0.1)
    for _ in range(20):
        one.call_from_s = time.monotonic()
        time.sleep(0.01)
    one.call_from_s = math.inf
    time.sleep(0.1)
    assert not store
    one.call_from_s = time.monotonic()
    wait_for(lambda: json.loads(store.get("key", "[0]"))[0] > 2)
    one.call_from_s = math.inf
    time.sleep(0.1)
    last = store["key"]
    time.sleep(0.15)
    assert store["key"] == last
    assert removed == [], "the next long call stores another value there"
    assert any(thread.name == "heartbeat" for thread in threading.enumerate())


@pytest.mark.parametrize("limit_s", [MIN_HUNG_AFTER_S, 3.0, 10.0, 60.0, 3_600.0, None])
def test_a_busy_part_is_responsive_with_every_limit_that_is_allowed(limit_s):
    config = SupervisionConfig(hung_after_s=limit_s)
    check_hung_after(config)
    every_s = config.heartbeat_every_s
    assert every_s <= 5
    # First read; the next heartbeat; the next read; two ticks of the control loop.
    latest_s = READ_AFTER_S + every_s + every_s + 2 * Timeouts().wait_s
    assert latest_s <= 0.6 * (limit_s or math.inf)
    assert latest_s < env_worker_overdue_s(Timeouts(), config), "nor is it shown as unresponsive"


def test_a_limit_that_a_busy_part_would_exceed_is_refused():
    SupervisionConfig(hung_after_s=0.1)  # fine in one process
    with pytest.raises(
        UserError, match=r"^supervision\.hung_after_s=1\.5: .* at least 2, or none$"
    ):
        check_hung_after(SupervisionConfig(hung_after_s=1.5))

"""A remote that is asked to crash during a call: killed through Ray, without a thread."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

import ray
from common.parts import actor
from deploy.runtime import ray_private, ray_runtime
from deploy.runtime.ray_actor import RemoteHandle
from deploy.runtime.ray_runtime import RayRuntime

PLACEMENT = SimpleNamespace(autoscaling=False)


@pytest.fixture
def killed(monkeypatch):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    return killed


def handle_of(key="key"):
    crash = SimpleNamespace(remote=lambda: None)
    return RemoteHandle(SimpleNamespace(crash=crash), "actor-0-0", actor(0), key)


def test_a_remote_that_does_not_crash_by_itself_is_killed_by_a_later_wait(monkeypatch, killed):
    # A timer that rings after `ray.shutdown` would start another Ray.
    runtime, threads = RayRuntime(PLACEMENT), threading.active_count()
    busy = handle_of()
    runtime.crash(busy)
    runtime.crash(handle_of(key=None))
    assert threading.active_count() == threads
    runtime.wait([], 0.0)
    assert killed == [], "not yet"
    monkeypatch.setattr(ray_runtime.time, "monotonic", lambda: 10.0**9)
    runtime.wait([], 0.0)
    runtime.wait([], 0.0)
    assert killed == [busy.remote]


def test_a_remote_that_was_killed_meanwhile_is_not_killed_again(monkeypatch, killed):
    runtime, busy = RayRuntime(PLACEMENT), handle_of()
    runtime.crash(busy)
    runtime.kill(busy)
    monkeypatch.setattr(ray_runtime.time, "monotonic", lambda: 10.0**9)
    runtime.wait([], 0.0)
    assert killed == [busy.remote]


def test_at_the_end_the_heartbeats_of_all_its_remotes_are_removed(monkeypatch):
    removed = []
    monkeypatch.setattr(ray_private, "unpublish", removed.append)
    runtime = RayRuntime(PLACEMENT)
    runtime.remove_heartbeats()
    assert removed == [runtime._heartbeat_keys]
    assert removed[0].startswith("heartbeat/")
    assert removed[0].endswith("/"), "no other run's"

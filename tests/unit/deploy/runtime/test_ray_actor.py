"""Ray's words about a death, in brief, and errors of a part in the process of its remote."""

from __future__ import annotations

import pickle
import signal
from types import SimpleNamespace

import pytest

from common.errors import EnvironmentFailedError
from common.version import VERSION
from deploy.runtime import ray_actor
from deploy.runtime.ray_actor import PartHost, reason_in

HEAD = "The actor died unexpectedly before finishing this task.\n\tclass_name: actor-0-0\n"
# As Ray 2.60 tells it of a process that got SIGKILL.
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some "
    "common causes include: (1) the process was killed by the OOM killer due to high memory usage."
)


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        (
            HEAD + KILLED,
            "its process ended (SYSTEM_ERROR: Worker unexpectedly exits with a connection error "
            "code 2. End of file)",
        ),
        (
            "Worker exit type: INTENDED_USER_EXIT Worker exit detail: exit code 1\nmore",
            "its process ended (INTENDED_USER_EXIT: exit code 1)",
        ),
        (
            HEAD + "The actor is dead because it was killed by `ray.kill`.",
            "it was killed by `ray.kill`",
        ),
        (HEAD, ""),
        ("Task was killed due to the node running low on memory.", ""),
        ("", ""),
    ],
)
def test_the_exit_detail_of_ray_in_brief(detail, reason):
    assert reason_in(detail) == reason


def test_however_long_it_is_the_reason_stays_short():
    assert len(reason_in(f"Worker exit type: X Worker exit detail: {'long ' * 1_000}")) < 250


class Interrupted:
    def __init__(self, in_constructor):
        if in_constructor:
            raise KeyboardInterrupt

    def step(self):
        raise KeyboardInterrupt("closed the window")


@pytest.fixture
def host_of(monkeypatch):
    """`host_of(in_constructor)`: a host of `Interrupted` in this process, and whom it ended."""
    ended = []
    monkeypatch.setattr(ray_actor, "end_with_parent", lambda: None)
    monkeypatch.setattr(ray_actor, "name_process", lambda name: None)
    monkeypatch.setattr(ray_actor, "Heartbeats", lambda *_: SimpleNamespace(call_from_s=0.0))
    monkeypatch.setattr(ray_actor, "end_children", lambda: ended.append(1))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def make(*args):
        return PartHost("part-0", VERSION, pickle.dumps(Interrupted), args, "key"), ended

    yield make
    PartHost.__name__ = "PartHost"
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_keyboard_interrupt_in_a_remote_is_a_failed_environment(host_of):
    host, ended = host_of(False)
    with pytest.raises(EnvironmentFailedError, match=r"^part-0: step\(\) raised Key.*the window$"):
        host.call("step")
    assert not ended


def test_a_constructor_that_fails_leaves_no_child_processes(host_of):
    host, ended = host_of(True)
    assert ended == [1]
    with pytest.raises(EnvironmentFailedError, match=r"^part-0: constructor raised Keyboard"):
        host.call("step")

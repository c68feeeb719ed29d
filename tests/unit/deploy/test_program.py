"""Who is made, and what each is made with."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from common.config import Config
from common.parts import part_name
from common.types import EnvironmentSpec, FrameSpec
from deploy.launch.run import _signals_later
from deploy.program import build

SPEC = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {})


class NotingRuntime:
    """Makes nothing; notes what was asked for."""

    parallel = True

    def __init__(self) -> None:
        self.parts: list[str] = []

    def spawn(self, cls, *args, part, incarnation):
        self.parts.append(part_name(part, incarnation))

    def run_on(self, part, function, *args):
        return function(*args)


def test_each_part_is_made_with_its_identity():
    runtime = NotingRuntime()
    made = build(Config(), SPEC, runtime, incarnation=7)
    made.spawn_evaluator(8)
    names = ["weight-store-7", "shard-0-7", "learner-7", "actor-0-7", "evaluator-8"]
    assert runtime.parts == names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_is_heeded_though_what_a_handler_raised_is_dropped(number):
    """Python drops what a handler of Ray's raises, if the signal comes in the middle of a fork."""

    def handler(number, frame):
        raise SystemExit(1)

    def start_ray():
        with _signals_later():
            signal.signal(signal.SIGTERM, handler)
            with suppress(SystemExit):
                os.kill(os.getpid(), number)
            signal.signal(signal.SIGTERM, before[1])
            reached.append(True)

    before, reached = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)), []
    with pytest.raises(KeyboardInterrupt):
        start_ray()
    assert reached
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with _signals_later():
        pass  # nothing came: nothing is raised
    assert signal.set_wakeup_fd(-1) == -1

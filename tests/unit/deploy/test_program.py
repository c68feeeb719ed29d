"""Who is made, and what each is made with."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from common.config import Config
from common.types import EnvironmentSpec, FrameSpec
from deploy.launch.run import _signals_later
from deploy.program import build

SPEC = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {})


class NotingRuntime:
    """Makes nothing; notes what was asked for."""

    parallel = True

    def __init__(self) -> None:
        self.titles: dict[str, str] = {}

    def spawn(self, cls, *args, name, title):
        self.titles[name] = title

    def run_on(self, title, function, *args):
        return function(*args)


def test_every_part_has_its_name_and_the_title_of_its_seat():
    runtime = NotingRuntime()
    made = build(Config(), SPEC, runtime, incarnation=7)
    made.spawn_evaluator(8)
    assert runtime.titles == {
        "variables-7": "variables",
        "shard-0-7": "shard-0",
        "learner-7": "learner",
        "actor-0-7": "actor-0",
        "evaluator-8": "evaluator",
    }


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

"""Who is made, and what each is made with."""

from __future__ import annotations

from common.config import Config
from common.types import EnvironmentSpec, FrameSpec
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


def test_every_part_has_its_name_and_the_id_of_its_slot():
    runtime = NotingRuntime()
    made = build(Config(), SPEC, runtime, incarnation=7)
    made.spawn_evaluator(8)
    assert runtime.titles == {
        "weight-store-7": "weight-store",
        "shard-0-7": "shard-0",
        "learner-7": "learner",
        "actor-0-7": "actor-0",
        "evaluator-8": "evaluator",
    }

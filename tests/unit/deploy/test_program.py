"""Who is made, and what each is made with."""

from __future__ import annotations

from common.config import Config
from common.parts import part_name
from common.types import EnvironmentSpec, FrameSpec
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
    assert runtime.titles == {
        "variables-7": "variables",
        "shard-0-7": "shard-0",
        "learner-7": "learner",
        "actor-0-7": "actor-0",
        "evaluator-8": "evaluator",
    }

"""The parts of a run, as `build` starts them."""

from __future__ import annotations

from common.config import Config
from common.parts import part_name
from common.types import EnvironmentSpec, FrameSpec
from deploy.program import build

SPEC = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {})


class NotingRuntime:
    """Starts no part; records the requests."""

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
    assert runtime.parts == [
        "weight-store-7", "shard-0-7", "learner-7", "actor-0-7", "evaluator-8",
    ]  # fmt: skip

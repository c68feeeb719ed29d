"""Who is made, and what each is made with."""

from __future__ import annotations

import pytest
import torch

from common.config import Config
from common.types import EnvironmentSpec, FrameSpec
from deploy import program
from deploy.program import build

SPEC = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {})


class NotingRuntime:
    """Makes nothing; notes what was asked for."""

    parallel = True

    def __init__(self) -> None:
        self.gpus: dict[str, int] = {}

    def spawn(self, cls, *args, name, gpus=0):
        self.gpus[name] = gpus


@pytest.mark.parametrize(
    ("device", "gpus"), [("cpu", 0), ("cuda", 1), ("cuda:0", 1), ("cuda:2", 3), ("mps", 0)]
)
def test_the_learner_alone_asks_for_gpus(monkeypatch, device, gpus):
    # A remote sees the GPUs that it asked for, counted from 0: the third of them needs three.
    monkeypatch.setattr(program, "choose_device", lambda name: torch.device(device))
    runtime = NotingRuntime()
    made = build(Config(), SPEC, runtime)
    made.spawn_evaluator(0)
    asked = runtime.gpus
    assert asked.pop("learner-0") == gpus
    assert set(asked) == {"variables-0", "shard-0-0", "actor-0-0", "evaluator-0"}
    assert set(asked.values()) == {0}


def test_which_device_is_asked_for_is_the_configurations(monkeypatch):
    names = []

    def chosen(name):
        names.append(name)
        return torch.device("cpu")

    monkeypatch.setattr(program, "choose_device", chosen)
    build(Config.model_validate({"learner": {"device": "cuda:1"}}), SPEC, NotingRuntime())
    assert names == ["cuda:1"]

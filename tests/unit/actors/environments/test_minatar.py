"""MinAtar: binary planes, action sets, names."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from common.types import FrameSpec
from support.acting import (
    needs_minatar,
)
from support.environments import play, refusal


@needs_minatar
@pytest.mark.parametrize(("version", "actions"), [("v0", 6), ("v1", 3)])
def test_minatar_runs_on_binary_planes_and_its_version_tells_the_action_set(make, version, actions):
    environment = make(id=f"MinAtar/Breakout-{version}")
    assert environment.spec.num_actions == actions
    assert environment.spec.protocol["env"].endswith(version)
    assert environment.spec.frame == FrameSpec((4, 10, 10), "uint8", 1.0)
    frames = environment.reset(0)
    assert frames.shape == (2, 4, 10, 10)
    assert frames.dtype == np.uint8
    # Channel 0 of Breakout is the paddle: one cell of the lowest row.
    assert frames[:, 0].sum(axis=(1, 2)).tolist() == [1, 1]
    assert frames[:, 0, 9].sum() == 2
    steps = play(environment, 200)
    assert any(step.terminated.any() for step in steps)
    assert not any(step.truncated.any() for step in steps)
    for before, after in pairwise(steps):
        assert np.array_equal(after.first, before.terminated)


@needs_minatar
def test_a_misspelt_minatar_game_suggests_a_near_one(make):
    make(id="MinAtar/Breakout-v1")  # all of them are registered by now
    assert "did you mean MinAtar/Breakout-v1?" in refusal(id="MinAtar/Brakout-v1")


@needs_minatar
def test_the_protocol_of_minatar_is_complete(make):
    protocol = make(id="MinAtar/SpaceInvaders-v1", copies=1).spec.protocol
    assert protocol["minatar"].startswith("1.")
    assert protocol["sticky_actions"] == 0.1
    assert protocol["difficulty_ramping"] is True
    plain = {"sticky_action_prob": 0.0, "difficulty_ramping": False}
    protocol = make(id="MinAtar/SpaceInvaders-v1", kwargs=plain, copies=1).spec.protocol
    assert (protocol["sticky_actions"], protocol["difficulty_ramping"]) == (0.0, False)

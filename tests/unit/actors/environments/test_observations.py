"""Observations: vectors, everything that flattens to one, 8-bit pictures."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from common.types import FrameSpec
from support.acting import (
    register,
)
from support.environments import actions_of, refusal


class ShowsEnv(gym.Env):
    """Shows samples of any space."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = gym.spaces.Discrete(2)

    def __init__(self, space, render_mode=None):
        self.observation_space = space
        self.shown = []

    def _show(self):
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self._show(), {}

    def step(self, action):
        return self._show(), 0.0, False, False, {}


SHOWS = register("Shows", ShowsEnv)


def box(*shape, dtype=np.float32, high=1):
    return gym.spaces.Box(0, high, shape, dtype)


SPACES = {
    "dict": (gym.spaces.Dict({"a": box(2), "b": gym.spaces.Discrete(3)}), 2 + 3),
    "tuple": (gym.spaces.Tuple((gym.spaces.Discrete(4), box(2, 2))), 4 + 4),
    "discrete": (gym.spaces.Discrete(7), 7),
    "matrix": (box(3, 4), 12),
    "float64": (box(5, dtype=np.float64), 5),
    "ram": (box(6, dtype=np.uint8, high=255), 6),
    "bits": (gym.spaces.MultiBinary(4), 4),
}


@pytest.mark.parametrize("name", SPACES)
def test_observations_of_any_flat_kind_become_one_vector(make, name):
    space, size = SPACES[name]
    environment = make(id=SHOWS, kwargs={"space": space}, copies=1)
    scale = 1 / 255 if name == "ram" else 1.0
    assert environment.spec.frame == FrameSpec((size,), "float32", scale)
    environment.reset(1)
    step = environment.step(actions_of(0))
    assert step.observation.dtype == np.float32
    assert step.observation.shape == (1, size)
    shown = environment._vector.envs[0].unwrapped.shown[-1]
    expected = gym.spaces.utils.flatten(space, shown)
    assert step.observation[0] == pytest.approx(np.asarray(expected, np.float32))


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 3), (3, 40, 60)])
def test_8_bit_observations_are_pictures(make, shape):
    space = box(*shape, dtype=np.uint8, high=255)
    environment = make(id=SHOWS, kwargs={"space": space}, width=15, height=10)
    assert environment.spec.frame == FrameSpec((1, 10, 15), "uint8", 1 / 255)
    assert environment.reset(0).shape == (2, 1, 10, 15)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Graph(box(2), None),
        gym.spaces.Sequence(box(2)),
        gym.spaces.Dict({"a": gym.spaces.Sequence(box(2)), "b": box(1)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_observations_that_no_vector_can_be_made_of_are_refused(space):
    message = refusal(id=SHOWS, kwargs={"space": space})
    assert type(space).__name__ in message


def test_a_vector_too_long_to_be_meant_is_refused():
    space = gym.spaces.Tuple((gym.spaces.Discrete(1 << 21), box(1)))
    assert "2,097,153" in refusal(id=SHOWS, kwargs={"space": space})

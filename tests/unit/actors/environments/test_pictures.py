"""Pictures rendered of environments, as observations and for people."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actors.environments.copies import Copies
from common.errors import UserError
from common.types import FrameSpec
from support.acting import (
    COUNTING,
    needs_minatar,
)
from support.environments import actions_of, refusal

PIXELS = {"id": "CartPole-v1", "observation": "pixels", "width": 40, "height": 30}


def test_pixels_are_pictures_of_the_size_and_colour_that_were_asked_for(make):
    grey = make(**PIXELS)
    assert grey.spec.frame == FrameSpec((1, 30, 40), "uint8", 1 / 255)
    frames = grey.reset(0)
    assert frames.shape == (2, 1, 30, 40)
    assert frames.dtype == np.uint8
    colour = make(**PIXELS, grey=False)
    assert colour.spec.frame.shape == (3, 30, 40)
    assert colour.reset(0).shape == (2, 3, 30, 40)
    assert type(grey._vector) is Copies
    assert grey._vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_the_picture_shows_the_state_and_moves_with_it(make):
    environment = make(**PIXELS, copies=1)
    first = environment.reset(0)
    for _ in range(5):
        step = environment.step(actions_of(1))
    assert not np.array_equal(step.observation, first)
    again = environment.reset(0)
    assert np.array_equal(again, first)


def test_the_last_picture_of_an_episode_is_not_the_first_of_the_next(make):
    environment = make(**PIXELS, copies=1)
    environment.reset(0)
    step = environment.step(actions_of(1))
    while not step.terminated[0]:
        before = step.observation
        step = environment.step(actions_of(1))
    opening = environment.step(actions_of(1))
    assert opening.first[0]

    def difference(one, other):
        return np.abs(one.astype(int) - other.astype(int)).sum()

    # A falling pole moves a little from one step to the next; a new episode jumps upright.
    assert difference(step.observation, before) < difference(step.observation, opening.observation)


def test_the_screen_of_the_environment_itself_can_be_set(make):
    environment = make(**PIXELS, render_width=160, render_height=140, copies=1)
    environment.reset(0)
    assert environment.render()[0].shape == (140, 160, 3)
    plain = make(**PIXELS, copies=1)
    plain.reset(0)
    assert plain.render()[0].shape == (400, 600, 3)


def test_crop_and_invert_are_applied_to_what_is_rendered(make):
    whole = make(**PIXELS | {"width": 600, "height": 400}, copies=1)
    upper = make(
        **PIXELS | {"width": 600, "height": 200}, crop=(0.0, 0.0, 1.0, 0.5), invert=True, copies=1
    )
    everything, part = whole.reset(0), upper.reset(0)
    assert np.array_equal(part[0, 0], 255 - everything[0, 0, :200])


def test_a_screen_size_for_an_environment_without_one_is_refused():
    message = refusal(id="Acrobot-v1", observation="pixels", render_width=100)
    assert "render_width=100" in message


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes:UserWarning")
def test_pixels_of_an_environment_that_cannot_render_are_refused():
    # Outside of these tests gymnasium's warning is not an error, and no reason to stop.
    message = refusal(id=COUNTING, observation="pixels")
    assert COUNTING in message


@needs_minatar
@pytest.mark.filterwarnings("ignore:.*No render fps was declared:UserWarning")
@pytest.mark.filterwarnings("ignore:.*RGB-array rendering should return:UserWarning")
def test_pixels_of_an_environment_that_renders_fractions_are_right_or_refused(make):
    # MinAtar renders float64 in [0, 1]; taken for 8-bit it would be black, or crash later.
    def first_frames():
        try:
            environment = make(id="MinAtar/Breakout-v1", observation="pixels", copies=1)
        except UserError:
            return None
        return environment.reset(0)

    frames = first_frames()
    assert frames is None or (frames.dtype == np.uint8 and frames.max() > 1)


def test_any_environment_renders_pictures_of_all_copies_when_asked(make):
    for env_id in ("CartPole-v1", "Acrobot-v1"):
        environment = make(id=env_id, render=True)
        environment.reset(0)
        pictures = environment.render()
        assert len(pictures) == 2
        assert all(p.shape[2] == 3 and p.dtype == np.uint8 for p in pictures)

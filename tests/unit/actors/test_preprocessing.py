"""Small pictures with known answers."""

import numpy as np
import pytest

from actors.preprocessing import FrameStack, preprocess_picture
from common.types import FrameSpec


def grey_picture(*rows):
    return np.array(rows, np.uint8)


def test_a_grey_picture_of_the_right_size_comes_back_unchanged_with_one_channel():
    picture = grey_picture([0, 50, 100], [150, 200, 255])
    frame = preprocess_picture(picture, 2, 3)
    assert frame.dtype == np.uint8
    assert frame.tolist() == [[[0, 50, 100], [150, 200, 255]]]
    # The same picture with its channel written out.
    assert preprocess_picture(picture[:, :, None], 2, 3).tolist() == frame.tolist()


def test_the_crop_keeps_the_fractions_of_width_and_height_that_it_names():
    picture = np.arange(40, dtype=np.uint8).reshape(4, 10)
    frame = preprocess_picture(picture, 2, 4, crop=(0.2, 0.25, 0.6, 0.75))
    assert np.array_equal(frame[0], picture[1:3, 2:6])


def test_crop_comes_before_resize():
    picture = grey_picture([255, 0, 0, 10], [255, 0, 0, 30])
    # Right half is 0 0 / 10 30 → one pixel: the mean of what was kept, the white is not in it.
    frame = preprocess_picture(picture, 1, 1, crop=(0.5, 0.0, 1.0, 1.0))
    assert frame.tolist() == [[[10]]]


def test_resizing_averages_boxes_so_that_thin_things_fade_but_do_not_vanish():
    picture = np.zeros((4, 4), np.uint8)
    picture[:, 1] = 200  # a line one pixel wide
    frame = preprocess_picture(picture, 2, 2)
    assert frame.tolist() == [[[100, 0], [100, 0]]]


def test_height_and_width_are_not_mixed_up():
    picture = np.zeros((6, 8, 3), np.uint8)
    assert preprocess_picture(picture, 3, 2).shape == (1, 3, 2)
    assert preprocess_picture(picture, 3, 2, grey=False).shape == (3, 3, 2)


@pytest.mark.parametrize(
    ("colour", "luminance"),
    [
        ((255, 255, 255), 255),
        ((255, 0, 0), 76),
        ((0, 255, 0), 150),
        ((0, 0, 255), 29),
        ((100, 150, 200), 141),
    ],
)
def test_grey_is_the_luminance_of_itu_r_601(colour, luminance):
    # 0.299 R + 0.587 G + 0.114 B; the numbers are worked out by hand.
    picture = np.full((2, 2, 3), colour, np.uint8)
    assert (preprocess_picture(picture, 2, 2) == luminance).all()


def test_colour_comes_channels_first():
    picture = np.zeros((1, 2, 3), np.uint8)
    picture[0, 0] = (1, 2, 3)
    picture[0, 1] = (4, 5, 6)
    frame = preprocess_picture(picture, 1, 2, grey=False)
    assert frame.tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]
    assert frame.flags.c_contiguous


def test_a_grey_picture_asked_for_in_colour_has_three_equal_channels():
    frame = preprocess_picture(grey_picture([7, 9]), 1, 2, grey=False)
    assert frame.tolist() == [[[7, 9]]] * 3


@pytest.mark.parametrize("grey", [True, False])
def test_invert_is_255_minus_the_value(grey):
    picture = np.random.default_rng(0).integers(256, size=(5, 6, 3), dtype=np.uint8)
    plain = preprocess_picture(picture, 5, 6, grey)
    inverted = preprocess_picture(picture, 5, 6, grey, invert=True)
    assert np.array_equal(inverted.astype(int), 255 - plain.astype(int))


def test_the_callers_picture_is_left_as_it_was():
    picture = np.random.default_rng(0).integers(256, size=(5, 6, 3), dtype=np.uint8)
    before = picture.copy()
    preprocess_picture(picture, 3, 3, crop=(0.0, 0.0, 0.5, 0.5), invert=True)
    assert np.array_equal(picture, before)


def frames_of(*numbers):
    return np.array(numbers, np.float32)[:, None]


SPEC = FrameSpec((1,), "float32", 1.0)
NONE_FIRST = np.zeros(2, bool)


def test_before_the_start_there_are_zeros_and_the_newest_frame_is_last():
    stacks = FrameStack(2, 3, SPEC)
    first = stacks.push(frames_of(1, 10), np.ones(2, bool))[..., 0].tolist()
    assert first == [[0, 0, 1], [0, 0, 10]]
    assert stacks.push(frames_of(2, 20), NONE_FIRST)[..., 0].tolist() == [[0, 1, 2], [0, 10, 20]]
    assert stacks.push(frames_of(3, 30), NONE_FIRST)[..., 0].tolist() == [[1, 2, 3], [10, 20, 30]]
    assert stacks.push(frames_of(4, 40), NONE_FIRST)[..., 0].tolist() == [[2, 3, 4], [20, 30, 40]]


def test_first_empties_the_stack_of_that_copy_alone():
    stacks = FrameStack(2, 3, SPEC)
    for n in (1, 2, 3):
        stacks.push(frames_of(n, 10 * n), NONE_FIRST)
    after = stacks.push(frames_of(4, 40), np.array([False, True]))[..., 0].tolist()
    assert after == [[2, 3, 4], [0, 0, 40]]
    # Nothing of the episode before comes back later.
    after = stacks.push(frames_of(5, 50), NONE_FIRST)[..., 0].tolist()
    assert after == [[3, 4, 5], [0, 40, 50]]


def test_a_stack_of_one_is_the_frame_itself():
    stacks = FrameStack(2, 1, SPEC)
    stacks.push(frames_of(1, 2), NONE_FIRST)
    assert stacks.push(frames_of(3, 4), NONE_FIRST)[..., 0].tolist() == [[3], [4]]


def test_pictures_stay_8_bit():
    stacks = FrameStack(1, 2, FrameSpec((1, 2, 2), "uint8", 1 / 255))
    stack = stacks.push(np.full((1, 1, 2, 2), 255, np.uint8), np.ones(1, bool))
    assert stack.dtype == np.uint8
    assert stack.shape == (1, 2, 1, 2, 2)
    assert stack.sum() == 4 * 255

"""Torsos: the first layers of a network, from pictures to features."""

from __future__ import annotations

from torch import nn

from common.errors import UserError
from common.network_shapes import CONVOLUTIONS, min_pixels, sides_left
from common.types import FrameSpec


def checked_picture(frame: FrameSpec, kind: str) -> tuple[int, int, int]:
    """Channels, height and width of pictures that a convolutional torso can take.

    Args:
        frame: shape and type of a frame.
        kind: `network.kind`, a convolutional one.

    Raises:
        UserError: the frames are vectors, or pictures too small for the torso.
    """
    if not frame.is_picture:
        raise UserError(
            f"network.kind={kind}: needs pictures, but the observation is a vector of "
            f"{frame.shape[0]}; use mlp, or env.observation=pixels"
        )
    channels, height, width = frame.shape
    least = min_pixels(kind)
    if min(height, width) < least:
        fitting = [name for name in CONVOLUTIONS if min_pixels(name) <= min(height, width)]
        advice = f"; use {' or '.join(fitting)}" if fitting else "; use mlp"
        raise UserError(
            f"network.kind={kind}: needs pictures of {least}×{least} or larger, "
            f"not {height}×{width}{advice}"
        )
    return channels, height, width


def convolutions(
    kind: str, channels: int, height: int, width: int, layer_norm: bool = False
) -> tuple[nn.Module, int]:
    """The convolutions of a kind, and how many features they give.

    Args:
        kind: `network.kind`, a convolutional one.
        channels: of the input: stack × channels of a frame.
        height, width: of a frame, pixels.
        layer_norm: normalise what each convolution gives over channels, height and width, with a
            gain and a bias for each channel.
    """
    layers: list[nn.Module] = []
    for outputs, kernel, stride in CONVOLUTIONS[kind]:
        layers.append(nn.Conv2d(channels, outputs, kernel_size=kernel, stride=stride))
        if layer_norm:
            layers.append(nn.GroupNorm(1, outputs))
        layers.append(nn.ReLU())
        channels = outputs
    rows, columns = sides_left(kind, height, width)
    return nn.Sequential(*layers), channels * rows * columns

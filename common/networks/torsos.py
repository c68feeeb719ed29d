"""Torsos: the first layers of a network, from pictures to features."""

from __future__ import annotations

from torch import nn

from common.config_sections import NATURE_CONVOLUTIONS
from common.errors import UserError
from common.types import FrameSpec

NATURE_MIN_PIXELS = 36


def checked_picture(frame: FrameSpec, kind: str) -> tuple[int, int, int]:
    """Channels, height and width of pictures that a convolutional torso can take.

    Args:
        frame: shape and type of a frame.
        kind: `network.kind`, for messages.

    Raises:
        UserError: the frames are vectors, or pictures too small for the torso.
    """
    if not frame.is_picture:
        raise UserError(
            f"network.kind={kind}: needs pictures, but the observation is a vector of "
            f"{frame.shape[0]}; use mlp, or env.observation=pixels"
        )
    channels, height, width = frame.shape
    if min(height, width) < NATURE_MIN_PIXELS:
        raise UserError(
            f"network.kind={kind}: needs pictures of {NATURE_MIN_PIXELS}×{NATURE_MIN_PIXELS} "
            f"pixels or more, not {height}×{width}"
        )
    return channels, height, width


def nature_torso(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The convolutions of Mnih et al. 2015 (Methods, "Model architecture"), and how many features.

    Args:
        channels: of the input: stack × channels of a frame.
        height, width: of a frame, pixels.
    """

    def out(size: int) -> int:
        for _, kernel, stride in NATURE_CONVOLUTIONS:
            size = (size - kernel) // stride + 1
        return size

    layers: list[nn.Module] = []
    for outputs, kernel, stride in NATURE_CONVOLUTIONS:
        layers += [nn.Conv2d(channels, outputs, kernel_size=kernel, stride=stride), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers), channels * out(height) * out(width)

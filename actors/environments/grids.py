"""Grids: observations of cells, each with planes or codes, kept as they are."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from common.types import Array, FrameSpec

KEPT_IN_8_BITS = (np.dtype(np.bool_), np.dtype(np.uint8))


def grid_frames(
    space: gym.spaces.Box, scale: float | None, channels_first: bool = False
) -> tuple[FrameSpec, Callable[[Array], Array]]:
    """Frames `[C, H, W]` of a grid, and how a batch of observations becomes them.

    Args:
        space: `[H, W]` or `[H, W, C]`.
        scale: `env.scale`; None: 1.
        channels_first: the space is `[C, H, W]`.
    """
    dtype = "uint8" if space.dtype in KEPT_IN_8_BITS else "float32"
    if channels_first:
        spec = FrameSpec(space.shape, dtype, scale or 1.0)
        return spec, lambda batch: np.ascontiguousarray(batch, dtype)
    height, width, *channels = space.shape
    spec = FrameSpec((channels[0] if channels else 1, height, width), dtype, scale or 1.0)

    def to_frames(batch: Array) -> Array:
        cells = batch if batch.ndim == 4 else batch[..., None]
        return np.ascontiguousarray(cells.transpose(0, 3, 1, 2), dtype)

    return spec, to_frames

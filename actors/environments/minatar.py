"""MinAtar: small games, whose observations are binary planes."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from common.errors import UserError
from common.types import Array, FrameSpec

PREFIX = "MinAtar/"


def register_minatar(env_id: str) -> None:
    """Register the games of MinAtar with Gymnasium.

    Args:
        env_id: for the message.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from minatar.gym import register_envs
    except ImportError:
        raise UserError(
            f"env.id={env_id}: needs the package minatar (pip install minatar)"
        ) from None
    if "MinAtar/Breakout-v1" not in gym.registry:
        register_envs()


def is_grid(space: gym.spaces.Box) -> bool:
    """Whether observations are binary planes `[H, W, C]`, as MinAtar's are."""
    return space.dtype == np.bool_ and len(space.shape) == 3


def grid_frames(space: gym.spaces.Box) -> tuple[FrameSpec, Callable[[Array], Array]]:
    """Frames of binary planes, `[C, H, W]` uint8, and how a batch of observations becomes them."""
    height, width, channels = space.shape
    spec = FrameSpec((channels, height, width), "uint8", 1.0)
    return spec, lambda batch: batch.transpose(0, 3, 1, 2).astype(np.uint8)

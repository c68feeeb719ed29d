"""The meaning of an observation: a picture, a grid of cells, or a vector.

Type and shape of a space do not always tell: 8-bit numbers may be a small picture, or codes of the
objects in a grid. Where they do not, the user is asked.
"""

from __future__ import annotations

from typing import Literal

import gymnasium as gym
import numpy as np

from common.config_sections import EnvConfig
from common.errors import UserError

Meaning = Literal["picture", "grid", "planes", "vector"]
MIN_PICTURE = 32
"""Pixels: 8-bit observations with a shorter side may be a grid of codes as well as a picture."""
COLOURS = (1, 3)
"""Channels of a picture."""


def meaning_of(space: gym.Space, config: EnvConfig) -> Meaning:  # type: ignore[type-arg]
    """The meaning of observations of a space.

    Args:
        space: of one copy; of its rendered frames with `env.observation=pixels`.
        config: of the environment.

    Raises:
        UserError: the configuration asks for a meaning that the space cannot have, or the space
            leaves it open.
    """
    asked = config.observation
    if asked == "vector":
        return "vector"
    if asked in ("picture", "pixels"):
        if not is_picture_space(space):
            raise UserError(
                f"env.observation={asked}: {config.id} returns {describe(space)}; a picture is "
                "[H, W], [H, W, 1], [H, W, 3], [1, H, W] or [3, H, W], in 8 bits or with finite "
                "bounds; use grid or vector"
            )
        return "picture"
    if asked == "grid":
        if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (2, 3):
            raise UserError(
                f"env.observation=grid: {config.id} returns {describe(space)}; a grid is [H, W] or "
                "[H, W, C]; use vector"
            )
        return "grid"
    if asked == "planes":
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 3:
            raise UserError(
                f"env.observation=planes: {config.id} returns {describe(space)}; planes are "
                "[C, H, W]; use grid or vector"
            )
        return "planes"
    return _guess(space, config)


def is_picture_space(space: gym.Space) -> bool:  # type: ignore[type-arg]
    """Whether observations can be pictures: one or three channels, and known black and white."""
    return (
        isinstance(space, gym.spaces.Box)
        and picture_channels(space.shape) is not None
        and (space.dtype == np.uint8 or picture_bounds(space) is not None)
    )


def picture_channels(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels of a picture, 2 of `[H, W]`, or None: it is none."""
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in COLOURS):
        return 2
    return 0 if len(shape) == 3 and shape[0] in COLOURS else None


def picture_bounds(space: gym.spaces.Box) -> tuple[float, float] | None:
    """Black and white: the finite bounds that all numbers of a space share, or None."""
    low, high = float(space.low.min()), float(space.high.max())
    if low != space.low.max() or high != space.high.min() or not np.isfinite(high - low):
        return None
    return (low, high) if high > low else None


def describe(space: gym.Space) -> str:  # type: ignore[type-arg]
    """A space in a few words."""
    if isinstance(space, gym.spaces.Box):
        return f"{space.dtype} of shape {space.shape}"
    return type(space).__name__


def _guess(space: gym.Space, config: EnvConfig) -> Meaning:  # type: ignore[type-arg]
    if not isinstance(space, gym.spaces.Box):
        return "vector"
    if space.dtype == np.bool_ and len(space.shape) == 3:
        return "grid"
    if space.dtype == np.uint8 and len(space.shape) in (2, 3):
        if picture_channels(space.shape) is None:
            raise UserError(
                f"env.id={config.id}: pictures of shape {space.shape}; must be [H, W], [H, W, 1], "
                "[H, W, 3], [1, H, W] or [3, H, W], one at a time (env.stack stacks them); or set "
                "env.observation to grid, planes (channels first) or vector"
            )
        if min(_sides(space.shape)) < MIN_PICTURE:
            raise UserError(
                f"env.id={config.id}: 8-bit observations of shape {space.shape} may be codes of a "
                "grid or a small picture; set env.observation to grid, picture or vector"
            )
        return "picture"
    is_coloured = len(space.shape) == 3 and picture_channels(space.shape) is not None
    if is_coloured and picture_bounds(space) in ((0.0, 1.0), (0.0, 255.0)):
        return "picture" if min(_sides(space.shape)) >= MIN_PICTURE else "vector"
    return "vector"


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width."""
    first = 1 if picture_channels(shape) == 0 else 0
    return shape[first], shape[first + 1]

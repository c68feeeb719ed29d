"""What the games share: the board of 10×10 cells, the six actions, and a game's interface."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from common.types import Array

SIDE = 10
CELLS = SIDE * SIDE
NOTHING, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
ALL_ACTIONS = (NOTHING, LEFT, UP, RIGHT, DOWN, FIRE)
X_OF: Array = np.array([0, -1, 0, 1, 0, 0])
"""Cells to the right, by action."""
Y_OF: Array = np.array([0, 0, -1, 0, 1, 0])
"""Cells downwards, by action."""


class Game(Protocol):
    """N copies of a game.

    Attributes:
        channels: number of planes.
        minimal_actions: the actions that have an effect, as numbers of `ALL_ACTIONS`.
        ramps: it can become harder with time.
        planes: `[N, channels, 10, 10]` bool, what `show` has drawn.
    """

    channels: ClassVar[int]
    minimal_actions: ClassVar[tuple[int, ...]]
    ramps: ClassVar[bool]
    planes: Array

    def reset(self, copies: Array) -> None:
        """Begin an episode in these copies, `[M]` int."""

    def step(self, actions: Array, going: Array) -> tuple[Array, Array]:
        """Apply an action to each copy.

        Args:
            actions: `[N]` int, numbers of `ALL_ACTIONS`.
            going: `[N]` bool; the other copies draw no random number, and their state is
                undefined until they are reset.

        Returns:
            Rewards `[N]` float64, and whether the episode is over `[N]` bool.
        """

    def show(self) -> None:
        """Draw the state into `planes`."""


def new_planes(copies: int, channels: int) -> Array:
    """Empty planes, `[N, channels, 10, 10]` bool."""
    return np.zeros((copies, channels, SIDE, SIDE), bool)


def corners(planes: Array, channel: int) -> Array:
    """Where a channel of each copy begins in the flat planes, `[N]` int.

    The cell (x, y) stands at `corner + 10·y + x`.
    """
    copies, channels = planes.shape[:2]
    starts: Array = (np.arange(copies) * channels + channel) * CELLS
    return starts


def bounded(position: Array, low: int, high: int) -> Array:
    """`np.clip`, in a fifth of its time for arrays as small as here."""
    inside: Array = np.minimum(np.maximum(position, low), high)
    return inside


def within(position: Array) -> Array:
    """Whether a coordinate, int64, lies on the board."""
    inside: Array = position.view(np.uint64) < SIDE  # negative numbers become huge ones
    return inside

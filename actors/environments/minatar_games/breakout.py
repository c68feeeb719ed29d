"""Breakout: a paddle returns a ball that breaks three rows of bricks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from actors.environments.minatar_games.board import (
    LEFT,
    NOTHING,
    RIGHT,
    SIDE,
    X_OF,
    bounded,
    corners,
    new_planes,
)
from actors.environments.minatar_games.draws import Draws
from common.types import Array

PADDLE, BALL, TRAIL, BRICK = range(4)
BOTTOM = SIDE - 1
WALL = slice(1, 4)
# The four diagonals are numbered clockwise from up-left. Then 3 − d turns back vertically, d ^ 1
# horizontally, d ^ 2 both ways.
BALL_X: Array = np.array([-1, 1, 1, -1])
BALL_Y: Array = np.array([-1, -1, 1, 1])
DOWN_RIGHT, DOWN_LEFT = 2, 3


class Breakout:
    """N games of Breakout; see `Game`."""

    channels: ClassVar[int] = 4
    minimal_actions: ClassVar[tuple[int, ...]] = (NOTHING, LEFT, RIGHT)
    ramps: ClassVar[bool] = False

    def __init__(self, copies: int, draws: Draws, ramping: bool) -> None:
        """Games before their first reset; `ramping` has no effect."""
        self.planes = new_planes(copies, self.channels)
        self._draws = draws
        self._all: Array = np.arange(copies)
        self._bricks: Array = np.zeros((copies, SIDE, SIDE), bool)
        self._paddle, self._direction, self._x, self._y, self._last_x, self._last_y = np.zeros(
            (6, copies), np.int64
        )
        self._struck: Array = np.zeros(copies, bool)
        self._flat: Array = self.planes.reshape(-1)
        self._corners = [corners(self.planes, c) for c in range(self.channels)]

    def reset(self, copies: Array) -> None:
        """See `Game.reset`."""
        side = self._draws.bits(copies, 1)
        self._x[copies] = self._last_x[copies] = side * (SIDE - 1)
        self._direction[copies] = np.where(side == 0, DOWN_RIGHT, DOWN_LEFT)
        self._y[copies] = self._last_y[copies] = 3
        self._paddle[copies] = 4
        self._bricks[copies] = False
        self._bricks[copies, WALL] = True
        self._struck[copies] = False

    def step(self, actions: Array, going: Array) -> tuple[Array, Array]:
        """See `Game.step`."""
        self._paddle = bounded(self._paddle + X_OF[actions], 0, SIDE - 1)
        old_x, old_y, direction = self._x, self._y, self._direction
        x, y = old_x + BALL_X[direction], old_y + BALL_Y[direction]
        inside = bounded(x, 0, SIDE - 1)
        direction = np.where(x != inside, direction ^ 1, direction)
        x = inside
        above = y < 0
        y = bounded(y, 0, BOTTOM)  # below it are only copies whose episode is over
        on_brick = ~above & self._bricks[self._all, y, x]
        broken = on_brick & ~self._struck
        self._bricks[self._all, y, x] &= ~broken
        low = ~above & ~on_brick & (y == BOTTOM)
        is_over = self._struck_bottom(low, old_x, x) if low.any() else low
        returned = low & ~is_over
        straight = returned & (old_x == self._paddle)
        direction = np.where(above | broken | straight, 3 - direction, direction)
        direction = np.where(returned & ~straight, direction ^ 2, direction)
        self._y = np.where(broken | returned, old_y, y)
        self._x, self._last_x, self._last_y, self._direction = x, old_x, old_y, direction
        self._struck = on_brick  # a ball that stays among bricks breaks one
        return broken.astype(np.float64), is_over

    def _struck_bottom(self, low: Array, old_x: Array, x: Array) -> Array:
        """New walls where none is left, and whether the paddle has missed the ball."""
        empty = low & ~self._bricks.any(axis=(1, 2))
        if empty.any():
            self._bricks[np.flatnonzero(empty), WALL] = True
        missed: Array = low & (old_x != self._paddle) & (x != self._paddle)
        return missed

    def show(self) -> None:
        """See `Game.show`."""
        self.planes[:, :BRICK] = False
        self.planes[:, BRICK] = self._bricks
        flat, corner = self._flat, self._corners
        flat[corner[PADDLE] + SIDE * BOTTOM + self._paddle] = True
        flat[corner[BALL] + SIDE * self._y + self._x] = True
        flat[corner[TRAIL] + SIDE * self._last_y + self._last_x] = True

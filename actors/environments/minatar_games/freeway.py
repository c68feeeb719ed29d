"""Freeway: a chicken crosses eight lanes of cars."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from actors.environments.minatar_games.board import (
    DOWN,
    NOTHING,
    SIDE,
    UP,
    Y_OF,
    bounded,
    corners,
    new_planes,
)
from actors.environments.minatar_games.draws import Draws
from common.types import Array

CHICKEN, CAR, SPEED = range(3)
"""Channels; of each speed 1 … 5 there is one, from `SPEED` on."""
LANES = 8
SPEEDS = 5
START = SIDE - 1
COLUMN = 4
"""Of the chicken."""
STEPS_PER_MOVE = 3
EPISODE_STEPS = 2500
ROWS: Array = SIDE * np.arange(1, LANES + 1)
"""The first cell of each lane."""


class Freeway:
    """N games of Freeway; see `Game`."""

    channels: ClassVar[int] = 2 + SPEEDS
    minimal_actions: ClassVar[tuple[int, ...]] = (NOTHING, UP, DOWN)
    ramps: ClassVar[bool] = False

    def __init__(self, copies: int, draws: Draws, ramping: bool) -> None:
        """Games before their first reset; `ramping` has no effect."""
        self.planes = new_planes(copies, self.channels)
        self._draws = draws
        self._all: Array = np.arange(copies)
        self._y, self._rest, self._left = np.zeros((3, copies), np.int64)
        self._car_x, self._car_timer, self._wait, self._way = np.zeros(
            (4, copies, LANES), np.int64
        )  # [N, 8]; a car waits 1 … 5 steps between moves, and goes to the right (1) or left (−1)
        self._flat: Array = self.planes.reshape(-1)
        self._corners = [corners(self.planes, c) for c in (CHICKEN, CAR, SPEED)]

    def reset(self, copies: Array) -> None:
        """See `Game.reset`."""
        self._new_speeds(copies)
        self._car_x[copies] = 0
        self._y[copies] = START
        self._rest[copies] = STEPS_PER_MOVE
        self._left[copies] = EPISODE_STEPS

    def step(self, actions: Array, going: Array) -> tuple[Array, Array]:
        """See `Game.step`."""
        moves = np.where(self._rest == 0, Y_OF[actions], 0)
        self._rest[moves != 0] = STEPS_PER_MOVE
        y = bounded(self._y + moves, 0, START)
        across = (y == 0) & going
        if across.any():
            self._new_speeds(np.flatnonzero(across))
            y[across] = START
        lane = np.minimum(y - 1, LANES - 1)
        hit = self._car_x[self._all, lane] == COLUMN
        ready = self._car_timer == 0
        self._car_x = (self._car_x + self._way * ready) % SIDE
        self._car_timer = np.where(ready, self._wait, self._car_timer - 1)
        hit |= self._car_x[self._all, lane] == COLUMN
        self._y = np.where(hit, START, y)  # in the row of the start no car can hit
        self._rest -= self._rest > 0
        self._left -= 1
        return across.astype(np.float64), self._left < 0

    def _new_speeds(self, copies: Array) -> None:
        """New speeds and directions of all cars in these copies."""
        for copy in copies.tolist():
            waits = 1 + self._draws.below_of(copy, SPEEDS, LANES)
            self._wait[copy] = self._car_timer[copy] = waits
            self._way[copy] = np.where(self._draws.uniform_of(copy, LANES) > 0.5, 1, -1)

    def show(self) -> None:
        """See `Game.show`."""
        self.planes[:] = False
        flat, (chicken, car, speed) = self._flat, self._corners
        flat[chicken + SIDE * self._y + COLUMN] = True
        flat[car[:, None] + ROWS + self._car_x] = True
        behind = (self._car_x - self._way) % SIDE
        flat[speed[:, None] + SIDE * SIDE * (self._wait - 1) + ROWS + behind] = True

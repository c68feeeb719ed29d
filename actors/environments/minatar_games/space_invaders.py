"""Space Invaders: a cannon against waves of aliens that march, descend and shoot."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from actors.environments.minatar_games.board import (
    CELLS,
    FIRE,
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

CANNON, ALIEN, TO_LEFT, TO_RIGHT, SHOT, BOMB = range(6)
SHOT_STEPS = 5
BOMB_STEPS = 10
MARCH_STEPS, FASTEST_MARCH_STEPS = 12, 6
FLOOR = CELLS - SIDE
"""The first cell of the lowest row."""
_BOARD: Array = np.arange(CELLS).reshape(SIDE, SIDE)
WAVE: Array = np.zeros(CELLS, bool)
WAVE[_BOARD[0:4, 2:8].ravel()] = True
DESCEND, GO_LEFT, GO_RIGHT = range(3)
CAME_FROM: Array = np.stack(
    [np.roll(_BOARD, shift, axis).ravel() for shift, axis in ((1, 0), (-1, 1), (1, 1))]
)
"""`[3, 100]`: the cell whose alien comes to a cell, by kind of march. The board is a torus."""
NEAREST: Array = np.array(
    [sorted(range(SIDE), key=lambda column: abs(column - x)) for x in range(SIDE)]
)
"""`[10, 10]`: columns by their distance from the cannon's; the left one of two that are as near."""


class SpaceInvaders:
    """N games of Space Invaders; see `Game`. It is random only through sticky actions."""

    channels: ClassVar[int] = 6
    minimal_actions: ClassVar[tuple[int, ...]] = (NOTHING, LEFT, RIGHT, FIRE)
    ramps: ClassVar[bool] = True

    def __init__(self, copies: int, draws: Draws, ramping: bool) -> None:
        """Games before their first reset; `ramping`: each wave marches faster than the last."""
        self.planes = new_planes(copies, self.channels)
        self._ramping = ramping
        self._all: Array = np.arange(copies)
        self._x, self._shot_timer, self._bomb_timer = np.zeros((3, copies), np.int64)
        self._way, self._march_steps, self._march_timer = np.zeros((3, copies), np.int64)
        self._aliens, self._shots, self._bombs = np.zeros((3, copies, CELLS), bool)  # [N, 100]
        self._flat: Array = self.planes.reshape(-1)
        self._channel = self.planes.reshape(copies, self.channels, CELLS)
        self._cannon = corners(self.planes, CANNON) + FLOOR

    def reset(self, copies: Array) -> None:
        """See `Game.reset`."""
        self._x[copies] = 5
        self._shots[copies] = self._bombs[copies] = False
        self._aliens[copies] = WAVE
        self._way[copies] = -1
        self._march_steps[copies] = self._march_timer[copies] = MARCH_STEPS
        self._bomb_timer[copies] = BOMB_STEPS
        self._shot_timer[copies] = 0

    def step(self, actions: Array, going: Array) -> tuple[Array, Array]:
        """See `Game.step`."""
        fires = (actions == FIRE) & (self._shot_timer == 0)
        if fires.any():
            self._shots[fires, FLOOR + self._x[fires]] = True
            self._shot_timer[fires] = SHOT_STEPS
        self._x = bounded(self._x + X_OF[actions], 0, SIDE - 1)
        shots, bombs, aliens = self._shots, self._bombs, self._aliens
        shots[:, :-SIDE] = shots[:, SIDE:]
        shots[:, -SIDE:] = False
        bombs[:, SIDE:] = bombs[:, :-SIDE]
        bombs[:, :SIDE] = False
        here = FLOOR + self._x
        is_over = bombs[self._all, here] | aliens[self._all, here]
        marching = np.flatnonzero(self._march_timer == 0)
        if marching.size:
            is_over[marching] |= self._march(marching)
        bombing = np.flatnonzero(self._bomb_timer == 0)
        if bombing.size:
            self._bomb(bombing)
        reward = self._shoot()
        self._shot_timer -= self._shot_timer > 0
        self._march_timer -= 1
        self._bomb_timer -= 1
        cleared = ~aliens.any(axis=1)
        if cleared.any():
            if self._ramping:
                self._march_steps -= cleared & (self._march_steps > FASTEST_MARCH_STEPS)
            aliens[cleared] = WAVE
        return reward, is_over

    def _march(self, copies: Array) -> Array:
        """Move the aliens of these copies; whether they reach the ground or the cannon."""
        aliens = self._aliens[copies]  # [M, 100]
        rows = aliens.reshape(-1, SIDE, SIDE)
        self._march_timer[copies] = np.minimum(aliens.sum(axis=1), self._march_steps[copies])
        to_left = self._way[copies] < 0
        turns = np.where(to_left, rows[:, :, 0].any(axis=1), rows[:, :, -1].any(axis=1))
        is_over: Array = turns & rows[:, -1].any(axis=1)
        self._way[copies[turns]] *= -1
        kind = np.where(turns, DESCEND, np.where(to_left, GO_LEFT, GO_RIGHT))
        aliens = aliens[np.arange(len(copies))[:, None], CAME_FROM[kind]]
        self._aliens[copies] = aliens
        is_over |= aliens[np.arange(len(copies)), FLOOR + self._x[copies]]
        return is_over

    def _bomb(self, copies: Array) -> None:
        """The lowest alien of the column nearest to the cannon drops a bomb."""
        self._bomb_timer[copies] = BOMB_STEPS
        rows = self._aliens[copies].reshape(-1, SIDE, SIDE)
        order = NEAREST[self._x[copies]]  # [M, 10]
        each = np.arange(len(copies))
        columns: Array = np.logical_or.reduce(rows, axis=1)  # [M, 10]
        held = columns[each[:, None], order]
        column = order[each, held.argmax(axis=1)]
        row = SIDE - 1 - rows[each, ::-1, column].argmax(axis=1)
        self._bombs[copies, SIDE * row + column] = True

    def _shoot(self) -> Array:
        """Remove the aliens that shots have reached; how many in each copy, `[N]` float64."""
        hits = self._aliens & self._shots
        if not hits.any():
            return np.zeros(len(self._all))
        self._aliens ^= hits
        self._shots ^= hits
        reward: Array = hits.sum(axis=1, dtype=np.float64)
        return reward

    def show(self) -> None:
        """See `Game.show`."""
        channel = self._channel
        channel[:, CANNON] = False
        self._flat[self._cannon + self._x] = True
        to_left = (self._way < 0)[:, None]
        channel[:, ALIEN] = self._aliens
        channel[:, TO_LEFT] = self._aliens & to_left
        channel[:, TO_RIGHT] = self._aliens & ~to_left
        channel[:, SHOT] = self._shots
        channel[:, BOMB] = self._bombs

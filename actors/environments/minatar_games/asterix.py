"""Asterix: gold and enemies cross the board in eight lanes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from actors.environments.minatar_games.board import (
    DOWN,
    LEFT,
    NOTHING,
    RIGHT,
    SIDE,
    UP,
    X_OF,
    Y_OF,
    bounded,
    corners,
    new_planes,
    within,
)
from actors.environments.minatar_games.draws import Draws
from common.types import Array

PLAYER, ENEMY, TRAIL, GOLD = range(4)
LANES = 8
FIRST_SPAWN_STEPS = 10
FIRST_MOVE_STEPS = 5
RAMP_STEPS = 100


class Asterix:
    """N games of Asterix; see `Game`. A lane holds one thing at the most."""

    channels: ClassVar[int] = 4
    minimal_actions: ClassVar[tuple[int, ...]] = (NOTHING, LEFT, UP, RIGHT, DOWN)
    ramps: ClassVar[bool] = True

    def __init__(self, copies: int, draws: Draws, ramping: bool) -> None:
        """Games before their first reset; `ramping`: things come and move faster with time."""
        self.planes = new_planes(copies, self.channels)
        self._draws, self._ramping = draws, ramping
        self._all: Array = np.arange(copies)
        self._x, self._y = np.zeros((2, copies), np.int64)
        self._spawn_steps, self._spawn_timer, self._move_steps, self._move_timer = np.zeros(
            (4, copies), np.int64
        )
        self._ramp_timer, self._ramp = np.zeros((2, copies), np.int64)
        self._there, self._gold = np.zeros((2, copies, LANES), bool)  # [N, 8], as the next ones
        self._thing_x, self._way = np.zeros((2, copies, LANES), np.int64)
        self._flat: Array = self.planes.reshape(-1)
        self._corners = [corners(self.planes, c) for c in range(self.channels)]

    def reset(self, copies: Array) -> None:
        """See `Game.reset`."""
        self._x[copies] = self._y[copies] = 5
        self._there[copies] = False
        self._spawn_steps[copies] = self._spawn_timer[copies] = FIRST_SPAWN_STEPS
        self._move_steps[copies] = self._move_timer[copies] = FIRST_MOVE_STEPS
        self._ramp_timer[copies] = RAMP_STEPS
        self._ramp[copies] = 0

    def step(self, actions: Array, going: Array) -> tuple[Array, Array]:
        """See `Game.step`."""
        due = (self._spawn_timer == 0) & going
        if due.any():
            self._spawn(np.flatnonzero(due))
            self._spawn_timer[due] = self._spawn_steps[due]
        self._x = bounded(self._x + X_OF[actions], 0, SIDE - 1)
        self._y = bounded(self._y + Y_OF[actions], 1, LANES)
        taken, is_over = self._touch()
        reward = taken.astype(np.float64)
        moving = self._move_timer == 0
        if moving.any():
            self._move_timer[moving] = self._move_steps[moving]
            self._thing_x += self._way * moving[:, None]
            self._there &= within(self._thing_x)
            taken, hit = self._touch()  # the second look changes nothing where nothing moved
            reward += taken
            is_over |= hit
        self._spawn_timer -= 1
        self._move_timer -= 1
        if self._ramping:
            self._ramp_up()
        return reward, is_over

    def _touch(self) -> tuple[Array, Array]:
        """Take the gold that players stand on; where they did, and where they stand on enemies."""
        lane = self._y - 1
        touched = self._there[self._all, lane] & (self._thing_x[self._all, lane] == self._x)
        gold = touched & self._gold[self._all, lane]
        self._there[self._all, lane] &= ~gold
        return gold, touched & ~gold

    def _ramp_up(self) -> None:
        """Make the copies harder whose time has come."""
        can = (self._spawn_steps > 1) | (self._move_steps > 1)
        now = can & (self._ramp_timer < 0)
        self._ramp_timer -= can & ~now
        if now.any():
            self._move_steps -= now & (self._move_steps > 1) & (self._ramp % 2 == 1)
            self._spawn_steps -= now & (self._spawn_steps > 1)
            self._ramp += now
            self._ramp_timer[now] = RAMP_STEPS

    def _spawn(self, copies: Array) -> None:
        """A thing enters a free lane of each of these copies; none where all lanes are taken."""
        from_left = self._draws.uniform(copies) < 1 / 2
        is_gold = self._draws.uniform(copies) < 1 / 3
        free = ~self._there[copies]
        choices = free.sum(axis=1)
        (has_room,) = choices.nonzero()
        copies, from_left, is_gold = copies[has_room], from_left[has_room], is_gold[has_room]
        number = self._draws.below(copies, choices[has_room])
        lane = (free[has_room].cumsum(axis=1) > number[:, None]).argmax(axis=1)
        self._there[copies, lane] = True
        self._gold[copies, lane] = is_gold
        self._thing_x[copies, lane] = np.where(from_left, 0, SIDE - 1)
        self._way[copies, lane] = np.where(from_left, 1, -1)

    def show(self) -> None:
        """See `Game.show`."""
        self.planes[:] = False
        flat, corner = self._flat, self._corners
        flat[corner[PLAYER] + SIDE * self._y + self._x] = True
        copies, lanes = self._there.nonzero()
        x = self._thing_x[copies, lanes]
        rows = SIDE * (lanes + 1)
        gold = self._gold[copies, lanes]
        flat[np.where(gold, corner[GOLD][copies], corner[ENEMY][copies]) + rows + x] = True
        behind = x - self._way[copies, lanes]
        seen = within(behind)
        flat[(corner[TRAIL][copies] + rows + behind)[seen]] = True

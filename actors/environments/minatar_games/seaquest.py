"""Seaquest: a submarine shoots fish and submarines, rescues divers, and needs air.

Fish, submarines, divers and bullets stand in tables with one column each, of all copies together,
in the order in which they came: where two are in one cell, the order decides which one is hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from actors.environments.minatar_games.board import (
    ALL_ACTIONS,
    CELLS,
    FIRE,
    SIDE,
    X_OF,
    Y_OF,
    bounded,
    corners,
    new_planes,
    within,
)
from actors.environments.minatar_games.draws import Draws
from common.types import Array

FRONT, BACK, SHOT, TRAIL, BULLET, FISH, SUBMARINE, OXYGEN, RESCUED, DIVER = range(10)
"""Channels."""
COPY, X, Y, WAY, TIMER, IS_SUBMARINE, SHOT_TIMER = range(7)
"""Rows of the tables: bullets have the first four, divers five, fish and submarines all."""
BOTTOM = SIDE - 1
FULL_OXYGEN = 200
MOST_DIVERS = 6
SHOT_STEPS = 5
BULLET_STEPS = 10
DIVER_MOVE_STEPS = 5
DIVER_SPAWN_STEPS = 30
FIRST_SPAWN_STEPS = 20
FIRST_MOVE_STEPS, FASTEST_MOVE_STEPS = 5, 2
TURN: Array = np.array([0, -1, 0, 1, 0, 0])
"""The way that the player looks after an action; 0: as before."""
_COLUMNS: Array = np.arange(SIDE)
OXYGEN_BARS: Array = (np.arange(FULL_OXYGEN + 1) * SIDE // FULL_OXYGEN)[:, None] > _COLUMNS
"""`[201, 10]`: the lowest row of its channel, by oxygen."""
RESCUED_BARS: Array = (BOTTOM - np.arange(MOST_DIVERS + 1)[:, None] <= _COLUMNS) & (
    _COLUMNS < BOTTOM
)
"""`[7, 10]`: likewise, by divers aboard."""


class Seaquest:
    """N games of Seaquest; see `Game`."""

    channels: ClassVar[int] = 10
    minimal_actions: ClassVar[tuple[int, ...]] = ALL_ACTIONS
    ramps: ClassVar[bool] = True

    def __init__(self, copies: int, draws: Draws, ramping: bool) -> None:
        """Games before their first reset; `ramping`: harder with each visit to the surface."""
        self.planes = new_planes(copies, self.channels)
        self._draws, self._ramping = draws, ramping
        self._copies = copies
        self._x, self._y, self._way, self._oxygen, self._rescued = np.zeros((5, copies), np.int64)
        self._spawn_steps, self._move_steps, self._ramp = np.zeros((3, copies), np.int64)
        self._spawn_timer, self._diver_timer, self._shot_timer = np.zeros((3, copies), np.int64)
        self._surfaced: Array = np.zeros(copies, bool)
        self._shots, self._bullets = _empty(WAY), _empty(WAY)
        self._divers, self._enemies = _empty(TIMER), _empty(SHOT_TIMER)
        self._base: Array = np.arange(copies) * CELLS
        self._flat: Array = self.planes.reshape(-1)
        self._corners = [corners(self.planes, c) for c in range(self.channels)]

    def reset(self, copies: Array) -> None:
        """See `Game.reset`."""
        self._x[copies] = 5
        self._y[copies] = self._rescued[copies] = self._ramp[copies] = self._shot_timer[copies] = 0
        self._way[copies] = -1
        self._oxygen[copies] = FULL_OXYGEN
        self._spawn_steps[copies] = self._spawn_timer[copies] = FIRST_SPAWN_STEPS
        self._diver_timer[copies] = DIVER_SPAWN_STEPS
        self._move_steps[copies] = FIRST_MOVE_STEPS
        self._surfaced[copies] = True
        stays: Array = np.ones(self._copies, bool)
        stays[copies] = False
        self._shots, self._bullets, self._divers, self._enemies = (
            table[:, stays[table[COPY]]]
            for table in (self._shots, self._bullets, self._divers, self._enemies)
        )

    def step(self, actions: Array, going: Array) -> tuple[Array, Array]:
        """See `Game.step`."""
        self._reward: Array = np.zeros(self._copies)
        self._over: Array = np.zeros(self._copies, bool)
        self._spawn(going)
        self._move_player(actions)
        self._player: Array = self._base + SIDE * self._y + self._x  # [N], a cell of all boards
        if self._shots.size:
            self._move_shots()
        if self._divers.size:
            self._move_divers()
        if self._enemies.size:
            self._move_enemies()
        if self._bullets.size:
            self._move_bullets()
        self._spawn_timer -= self._spawn_timer > 0
        self._diver_timer -= self._diver_timer > 0
        self._shot_timer -= self._shot_timer > 0
        self._breathe()
        return self._reward, self._over

    def _spawn(self, going: Array) -> None:
        """A fish or submarine, and a diver, in the copies whose time has come."""
        due = (self._spawn_timer == 0) & going
        if due.any():
            self._spawn_enemies(np.flatnonzero(due))
            self._spawn_timer[due] = self._spawn_steps[due]
        due = (self._diver_timer == 0) & going
        if due.any():
            copies = np.flatnonzero(due)
            x, way = self._side(copies)
            y = 1 + self._draws.bits(copies, 3)
            self._divers = _appended(self._divers, copies, x, y, way, DIVER_MOVE_STEPS)
            self._diver_timer[due] = DIVER_SPAWN_STEPS

    def _side(self, copies: Array) -> tuple[Array, Array]:
        """A random side to enter from: its column, and the way from there."""
        from_left = self._draws.uniform(copies) < 1 / 2
        return np.where(from_left, 0, SIDE - 1), np.where(from_left, 1, -1)

    def _spawn_enemies(self, copies: Array) -> None:
        """An enemy per copy; none where its row holds one that goes the other way."""
        x, way = self._side(copies)
        is_submarine = self._draws.uniform(copies) < 1 / 3
        y = 1 + self._draws.bits(copies, 3)
        goes: Array = np.zeros((self._copies, SIDE, 3), bool)  # by way + 1
        goes[self._enemies[COPY], self._enemies[Y], self._enemies[WAY] + 1] = True
        free = ~goes[copies, y, 1 - way]
        if not free.all():
            copies, x, y, way, is_submarine = (
                row[free] for row in (copies, x, y, way, is_submarine)
            )
        self._enemies = _appended(
            *(self._enemies, copies, x, y, way, self._move_steps[copies]),
            *(is_submarine, BULLET_STEPS),
        )

    def _move_player(self, actions: Array) -> None:
        fires = (actions == FIRE) & (self._shot_timer == 0)
        if fires.any():
            (copies,) = fires.nonzero()
            rows = (row[copies] for row in (self._x, self._y, self._way))
            self._shots = _appended(self._shots, copies, *rows)
            self._shot_timer[fires] = SHOT_STEPS
        self._x = bounded(self._x + X_OF[actions], 0, SIDE - 1)
        self._y = bounded(self._y + Y_OF[actions], 0, BOTTOM - 1)
        turn = TURN[actions]
        self._way = np.where(turn == 0, self._way, turn)

    def _move_shots(self) -> None:
        """The player's shots move; each removes one fish, or else one submarine, in its cell."""
        shots, enemies = self._shots, self._enemies
        shots[X] += shots[WAY]
        shots = shots[:, within(shots[X])]
        self._shots = shots
        if not shots.size or not enemies.size:
            return
        shot_cells, enemy_cells = _cells(shots), _cells(enemies)
        (hits,) = self._held(enemy_cells)[shot_cells].nonzero()
        if not hits.size:
            return
        shots_left, enemies_left = np.ones(shots.shape[1], bool), np.ones(enemies.shape[1], bool)
        for shot in hits[::-1]:
            (in_cell,) = (enemies_left & (enemy_cells == shot_cells[shot])).nonzero()
            if in_cell.size:  # a fish first: their table comes first
                target = in_cell[enemies[IS_SUBMARINE, in_cell].argmin()]
                enemies_left[target] = shots_left[shot] = False
                self._reward[shots[COPY, shot]] += 1
        self._shots, self._enemies = shots[:, shots_left], enemies[:, enemies_left]

    def _move_divers(self) -> None:
        """Divers move, and go aboard where they meet the player, up to six."""
        divers = self._divers
        copies = divers[COPY]
        player = self._player[copies]
        met = _cells(divers) == player
        moving = divers[TIMER] == 0
        step = divers[WAY] * moving
        met |= moving & (_cells(divers) + step == player) & within(divers[X] + step)
        aboard: Array = np.zeros(len(copies), bool)
        for diver in np.flatnonzero(met)[::-1]:
            if self._rescued[copies[diver]] < MOST_DIVERS:
                self._rescued[copies[diver]] += 1
                aboard[diver] = True
        divers[X] += step
        divers[TIMER] = np.where(moving, DIVER_MOVE_STEPS, divers[TIMER] - 1)
        stay = within(divers[X]) & ~aboard
        if not stay.all():
            self._divers = divers[:, stay]

    def _move_enemies(self) -> None:
        """Submarines and fish move, meet the player or shots; submarines shoot."""
        enemies = self._enemies
        copies = enemies[COPY]
        player = self._player[copies]
        met = _cells(enemies) == player
        moving = enemies[TIMER] == 0
        enemies[X] += enemies[WAY] * moving
        enemies[TIMER] = np.where(moving, self._move_steps[copies], enemies[TIMER] - 1)
        stay = within(enemies[X])
        cells = _cells(enemies)
        runs_into = moving & stay & (cells == player)
        self._over[copies[met | runs_into]] = True
        if self._shots.size:
            candidates = moving & stay & ~runs_into & self._held(_cells(self._shots))[cells]
            if candidates.any():
                self._run_into_shots(np.flatnonzero(candidates), cells, stay)
        is_submarine = enemies[IS_SUBMARINE] == 1
        shoots = is_submarine & (enemies[SHOT_TIMER] == 0)
        enemies[SHOT_TIMER] = np.where(shoots, BULLET_STEPS, enemies[SHOT_TIMER] - is_submarine)
        if shoots.any():  # also those that have just left the board or been hit
            self._bullets = np.concatenate([self._bullets, enemies[: WAY + 1, shoots]], axis=1)
        if not stay.all():
            self._enemies = enemies[:, stay]

    def _run_into_shots(self, candidates: Array, cells: Array, stay: Array) -> None:
        """Remove the enemies that have moved onto a shot, each with one shot.

        Args:
            candidates: numbers of those that have moved onto one, in their order.
            cells: `[M]`, of all enemies.
            stay: `[M]` bool, is set to False.
        """
        shots = self._shots
        shot_cells, left = _cells(shots), np.ones(shots.shape[1], bool)
        for enemy in _last_first(candidates, self._enemies[IS_SUBMARINE]):
            (in_cell,) = (left & (shot_cells == cells[enemy])).nonzero()
            if in_cell.size:
                left[in_cell[0]] = stay[enemy] = False
                self._reward[self._enemies[COPY, enemy]] += 1
        self._shots = shots[:, left]

    def _move_bullets(self) -> None:
        """The enemies' bullets move; they hit where they were and where they come to."""
        bullets = self._bullets
        copies = bullets[COPY]
        player = self._player[copies]
        met = (_cells(bullets) == player) & within(bullets[X])
        bullets[X] += bullets[WAY]
        stay = within(bullets[X])
        met |= (_cells(bullets) == player) & stay
        self._over[copies[met]] = True
        if not stay.all():
            self._bullets = bullets[:, stay]

    def _breathe(self) -> None:
        """Use up oxygen below the surface; at the surface the divers go ashore."""
        self._over |= self._oxygen <= 0
        below = self._y > 0
        self._oxygen -= below
        arrived = ~below & ~self._surfaced
        self._surfaced = ~below & self._surfaced
        if arrived.any():
            self._over |= arrived & (self._rescued == 0)
            self._surface(arrived & (self._rescued != 0))

    def _surface(self, copies: Array) -> None:
        """Divers go ashore, with a reward if all six are aboard; the boat takes air.

        Args:
            copies: `[N]` bool.
        """
        full = copies & (self._rescued == MOST_DIVERS)
        self._surfaced |= copies
        self._rescued[full] = 0
        self._reward += np.where(full, self._oxygen * SIDE // FULL_OXYGEN, 0)
        self._oxygen[copies] = FULL_OXYGEN
        self._rescued -= copies  # also after all six have gone: then it is −1, as in MinAtar
        if self._ramping:
            can_move = self._move_steps > FASTEST_MOVE_STEPS
            can_spawn = self._spawn_steps > 1
            harder = copies & (can_move | can_spawn)
            self._move_steps -= harder & can_move & (self._ramp % 2 == 1)
            self._spawn_steps -= harder & can_spawn
            self._ramp += harder

    def _held(self, cells: Array) -> Array:
        """Which cells of all boards are among these, `[N · 100]` bool."""
        held: Array = np.zeros(self._copies * CELLS, bool)
        held[cells] = True
        return held

    def show(self) -> None:
        """See `Game.show`."""
        self.planes[:] = False
        flat, corner = self._flat, self._corners
        cell = SIDE * self._y + self._x
        flat[corner[FRONT] + cell] = True
        flat[corner[BACK] + SIDE * self._y + (self._x - self._way) % SIDE] = True
        self.planes[:, OXYGEN, BOTTOM] = OXYGEN_BARS[np.maximum(self._oxygen, 0)]
        self.planes[:, RESCUED, BOTTOM] = RESCUED_BARS[np.maximum(self._rescued, 0)]
        for channel, table in ((SHOT, self._shots), (BULLET, self._bullets), (DIVER, self._divers)):
            if table.size:
                flat[corner[channel][table[COPY]] + SIDE * table[Y] + table[X]] = True
        enemies = self._enemies
        if enemies.size:
            kind = (FISH + enemies[IS_SUBMARINE]) * CELLS
            flat[corner[0][enemies[COPY]] + kind + SIDE * enemies[Y] + enemies[X]] = True
        for table in (enemies, self._divers):
            behind = table[X] - table[WAY]
            seen = within(behind)
            flat[(corner[TRAIL][table[COPY]] + SIDE * table[Y] + behind)[seen]] = True


def _empty(last_row: int) -> Array:
    return np.zeros((last_row + 1, 0), np.int64)


def _appended(table: Array, copies: Array, *rows: Array | int) -> Array:
    """The table with one more column for each of these copies; `rows` are the others."""
    width = table.shape[1]
    longer: Array = np.empty((len(table), width + len(copies)), np.int64)
    longer[:, :width] = table
    for place, row in zip(longer[:, width:], (copies, *rows), strict=True):
        place[:] = row
    return longer


def _cells(table: Array) -> Array:
    """The cells of all boards that the things of a table are in; `X` must be on the board."""
    cells: Array = table[COPY] * CELLS + SIDE * table[Y] + table[X]
    return cells


def _last_first(numbers: Array, is_submarine: Array) -> Iterator[int]:
    """Submarines before fish, and of each kind those that came last first."""
    for kind in (1, 0):
        yield from numbers[is_submarine[numbers] == kind][::-1].tolist()

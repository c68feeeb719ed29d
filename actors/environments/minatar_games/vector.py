"""N copies of a game of MinAtar as a vector environment in Gymnasium's mode NEXT_STEP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from actors.environments.minatar_games.asterix import Asterix
from actors.environments.minatar_games.board import ALL_ACTIONS, SIDE, Game
from actors.environments.minatar_games.breakout import Breakout
from actors.environments.minatar_games.draws import Draws
from actors.environments.minatar_games.freeway import Freeway
from actors.environments.minatar_games.seaquest import Seaquest
from actors.environments.minatar_games.space_invaders import SpaceInvaders
from common.types import Array

GAMES: Mapping[str, type[Asterix | Breakout | Freeway | Seaquest | SpaceInvaders]] = {
    "asterix": Asterix,
    "breakout": Breakout,
    "freeway": Freeway,
    "seaquest": Seaquest,
    "space_invaders": SpaceInvaders,
}
STICKY = 0.1
"""Probability that the last action is repeated, unless told otherwise."""
_KEYS = {"game", "use_minimal_action_set", "sticky_action_prob", "difficulty_ramping"}
_LIMIT = "max_episode_steps"


class MinAtarVector:
    """The part of `gymnasium.vector.VectorEnv` that `Environment` uses.

    Copy i with the seed s equals MinAtar's own environment after `reset(seed=s + i)`, bit by bit.

    Attributes:
        num_envs: N.
        single_observation_space: `[10, 10, C]` bool.
        single_action_space: numbers from 0.
        sticky_actions: probability that the last action is repeated.
        ramps: the game becomes harder with time.
    """

    def __init__(
        self,
        copies: int,
        game: str,
        use_minimal_action_set: bool = False,
        sticky_action_prob: float = STICKY,
        difficulty_ramping: bool = True,
        max_episode_steps: int | None = None,
    ) -> None:
        """Copies before their first reset; arguments as of `minatar.gym.BaseEnv`.

        Args:
            copies: N.
            game: a key of `GAMES`.
            use_minimal_action_set: only the actions that have an effect.
            sticky_action_prob: see `sticky_actions`.
            difficulty_ramping: of the games that can, see `ramps`.
            max_episode_steps: truncate there.
        """
        made = GAMES[game]
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = copies
        self.sticky_actions = sticky_action_prob
        self.ramps = made.ramps and difficulty_ramping
        self._draws = Draws(copies)
        self._game: Game = made(copies, self._draws, difficulty_ramping)
        self._actions: Array = np.array(
            made.minimal_actions if use_minimal_action_set else ALL_ACTIONS
        )
        self.single_action_space = gym.spaces.Discrete(len(self._actions))
        self.single_observation_space = gym.spaces.Box(  # its stubs know floats only
            0,
            1,
            (SIDE, SIDE, self._game.channels),
            np.bool_,  # type: ignore[arg-type]
        )
        self._limit = max_episode_steps
        self._last: Array = np.zeros(copies, np.int64)  # MinAtar keeps it over a reset, too
        self._steps: Array = np.zeros(copies, np.int64)
        self._done: Array = np.zeros(copies, bool)

    def reset(self, seed: int | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every copy; copy i gets the seed `seed + i`."""
        if seed is not None:
            for copy in range(self.num_envs):
                self._draws.seed(copy, seed + copy)
        self._game.reset(np.arange(self.num_envs))
        self._steps[:] = 0
        self._done = np.zeros(self.num_envs, bool)
        return self._observation(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of every copy; a copy whose episode has ended is reset instead."""
        chosen = self._actions[actions]
        going, (over,) = ~self._done, self._done.nonzero()
        if over.size:
            (copies,) = going.nonzero()
            repeats = self._done.copy()  # what a copy that is reset did last stays, too
            repeats[copies] = self._draws.uniform(copies) < self.sticky_actions
        else:
            repeats = self._draws.uniform_of_all() < self.sticky_actions
        self._last = np.where(repeats, self._last, chosen)
        reward, terminated = self._game.step(self._last, going)
        self._steps += 1
        if over.size:
            self._game.reset(over)
            reward = np.where(going, reward, 0.0)
            terminated = terminated & going
            self._steps[over] = 0
        truncated: Array = np.zeros(self.num_envs, bool)
        if self._limit is not None:
            truncated = (self._steps >= self._limit) & going
        self._done = terminated | truncated
        return self._observation(), reward, terminated, truncated, {}

    def render(self) -> None:
        """No pictures."""

    def close(self) -> None:
        """Nothing to free."""

    def _observation(self) -> Array:
        """`[N, 10, 10, C]` bool; the next step writes over it."""
        self._game.show()
        return self._game.planes.transpose(0, 2, 3, 1)


def are_known(arguments: Mapping[str, Any]) -> bool:
    """Whether `MinAtarVector` takes these arguments; only MinAtar itself can judge others.

    Args:
        arguments: as registered and as configured.
    """
    sticky, limit = arguments.get("sticky_action_prob", STICKY), arguments.get(_LIMIT)
    flags = ("use_minimal_action_set", "difficulty_ramping")
    return (
        set(arguments) <= {*_KEYS, _LIMIT}
        and arguments.get("game") in GAMES
        and all(isinstance(arguments.get(flag, True), bool) for flag in flags)
        and isinstance(sticky, int | float)
        and (limit is None or (type(limit) is int and limit > 0))
    )

"""An environment with illegal actions, and what was done to all its copies in this process."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from common.types import Array
from support.acting import register

ACTIONS = 11
"""Their packed masks take two bytes."""


class LegalMovesEnv(gym.Env):
    """An illegal action ends the episode with −10; each observation shows which ones are legal.

    The mask is written over by the next step. At the end of an episode it is empty. Legal actions
    pay 1, illegal ones would look better to a network that knows no mask: the observation says
    2 where an action is legal, 5 where it is not.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own way to say it)
    taken: ClassVar[Counter[bool]] = (
        Counter()
    )  # of all copies: how many actions were legal, how many not

    def __init__(
        self, length: int = 6, tells: str = "action_mask", render_mode: str | None = None
    ) -> None:
        self.observation_space = gym.spaces.Box(0, 5, (ACTIONS,), np.float32)
        self.action_space = gym.spaces.Discrete(ACTIONS)
        self._length, self._tells, self._t = length, tells, 0
        self._mask: Array = np.zeros(ACTIONS, np.int8)

    def _observe(self) -> tuple[Array, dict[str, Any]]:
        self._mask[:] = self.np_random.random(ACTIONS) < 0.25
        self._mask[self.np_random.integers(ACTIONS)] = 1
        observation = shown(self._mask)
        return observation, {self._tells: self._mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._t = 0
        return self._observe()

    def step(self, action: Any) -> Any:
        legal = bool(self._mask[action])
        LegalMovesEnv.taken[legal] += 1
        self._t += 1
        observation, info = self._observe()
        ended = not legal or self._t >= self._length
        if ended:
            self._mask[:] = 0
        return observation, 1.0 if legal else -10.0, ended, False, info

    def action_masks(self) -> Array:
        """As sb3-contrib calls it."""
        return self._mask.astype(bool)


def shown(mask: Array) -> Array:
    """The observation of a state with this mask."""
    return np.where(mask, 2.0, 5.0).astype(np.float32)


def legal_in(observation: Array) -> Array:
    """The mask that an observation shows, `[…, A]` bool."""
    legal: Array = observation == 2.0
    return legal


def unpacked(packed: Array, actions: int = ACTIONS) -> Array:
    """`[K, M]` uint8 → `[K, A]` bool, bit by bit."""
    return np.array([[bool(row[a // 8] >> a % 8 & 1) for a in range(actions)] for row in packed])


# Gymnasium's checker warns of masks that are written over; not every environment has it.
LEGAL_MOVES = register("LegalMoves", LegalMovesEnv, disable_env_checker=True)
LEGAL_MOVES_LIMITED = register(
    "LegalMovesLimited", LegalMovesEnv, max_episode_steps=4, disable_env_checker=True
)

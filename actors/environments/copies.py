"""N single environments that step together, in Gymnasium's autoreset mode NEXT_STEP.

Gymnasium's own `SyncVectorEnv` merges the infos of its copies, and fails where they do not fit
together. Here only those values of an info are read that the configuration asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from actors.environments.masks import MaskReader
from common.types import Array


class Copies:
    """The part of `gymnasium.vector.VectorEnv` that `Environment` uses.

    Attributes:
        num_envs: N.
        envs: the environments.
        single_observation_space: of one copy; observations come in its dtype.
    """

    def __init__(
        self,
        members: Sequence[gym.Env[Any, Any]],
        reads_lives: bool,
        mask_readers: Sequence[MaskReader] | None = None,
    ) -> None:
        """Copies before their first reset.

        Args:
            members: the N environments; all have equal spaces.
            reads_lives: return `info["lives"]`.
            mask_readers: of each copy's action masks, to return them as `info["action_mask"]`.
        """
        space = members[0].observation_space
        assert isinstance(space, gym.spaces.Box)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = len(members)
        self.single_observation_space = space
        self.envs = members
        self._reads_lives = reads_lives
        self._mask_readers = mask_readers
        self._observations: Array = np.zeros((len(members), *space.shape), space.dtype)
        self._done: Array = np.zeros(len(members), bool)

    def reset(self, seed: int | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every copy; copy i gets the seed `seed + i`."""
        infos, masks = [], []
        for i, member in enumerate(self.envs):
            observation, info = member.reset(seed=None if seed is None else seed + i)
            self._keep(i, observation)
            infos.append(info)
            masks.append(self._mask(i, info))
        self._done[:] = False
        return self._observations, self._read(infos, masks)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of every copy; a copy whose episode has ended is reset instead."""
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        infos, masks = [], []
        for i, member in enumerate(self.envs):
            if self._done[i]:
                observation, info = member.reset()
            else:
                observation, reward[i], terminated[i], truncated[i], info = member.step(actions[i])
            self._keep(i, observation)
            infos.append(info)
            masks.append(None if terminated[i] else self._mask(i, info))
        self._done = terminated | truncated
        return self._observations, reward, terminated, truncated, self._read(infos, masks)

    def render(self) -> tuple[Any, ...]:
        """A picture of each copy."""
        return tuple(member.render() for member in self.envs)

    def close(self) -> None:
        """Close every copy, even if one raises; the first error is raised at the end."""
        errors: list[BaseException] = []
        for member in self.envs:
            try:
                member.close()
            except (Exception, SystemExit) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _keep(self, copy: int, observation: Any) -> None:
        """Copy an observation: the environment may write over it later."""
        with np.errstate(over="ignore"):  # it becomes infinite, which `Environment` refuses
            self._observations[copy] = observation

    def _mask(self, copy: int, info: Any) -> Any:
        """A copy's action mask, read before another copy may write over it."""
        return None if self._mask_readers is None else self._mask_readers[copy](info)

    def _read(self, infos: Sequence[Any], masks: Sequence[Any]) -> dict[str, Any]:
        read: dict[str, Any] = {}
        if self._reads_lives:
            read["lives"] = [
                info.get("lives") if isinstance(info, dict) else None for info in infos
            ]
        if self._mask_readers is not None:
            read["action_mask"] = masks
        return read

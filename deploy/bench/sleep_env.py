"""An environment whose step takes a fixed time and no CPU, to measure everything around it."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np

from common.types import Array

EPISODE_STEPS = 200


class Sleep(gym.Env[Array, Any]):
    """Stands for a simulator in another process: each step sleeps, all episodes have one length."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, step_s: float = 0.02, render_mode: str | None = None) -> None:
        """Each step takes `step_s` seconds."""
        self._step_s = step_s

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """A random observation."""
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Sleep."""
        time.sleep(self._step_s)
        return self._observe(), 1.0, False, False, {}

    def _observe(self) -> Array:
        return self.np_random.uniform(-1.0, 1.0, 4).astype(np.float32)


gym.register("Sleep-v0", f"{__name__}:Sleep", max_episode_steps=EPISODE_STEPS)

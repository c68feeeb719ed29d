"""The part of `gymnasium.vector.VectorEnv` that `Environment` uses."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym


class Vector(Protocol):
    """N copies that step together, in Gymnasium's autoreset mode NEXT_STEP."""

    @property
    def num_envs(self) -> int:
        """N."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Holds `autoreset_mode`."""

    @property
    def single_observation_space(self) -> gym.Space[Any]:
        """Of one copy."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every copy; copy i gets the seed `seed + i`."""

    def step(self, actions: Any, /) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every copy; a copy whose episode has ended is reset instead."""

    def render(self) -> Any:
        """A picture of each copy, or None."""

    def close(self) -> None:
        """Free the copies."""

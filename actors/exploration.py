"""ε-greedy strategies: the probability of a random action, for each environment copy."""

from __future__ import annotations

import numpy as np

from common.config_sections import ExplorationConfig
from common.schedule import exponential, linear
from common.types import Array


def ladder(index: Array, count: int, base: float, alpha: float) -> Array:
    """ε_i = base^(1 + alpha·i/(N−1)), constant over the run (Horgan et al. 2018, section 4.1).

    Args:
        index: i, `[n]`. count: N; a single copy gets `base`.

    Returns:
        `[n]` float64.
    """
    epsilons: Array = base ** (1 + alpha * index / max(1, count - 1))
    return epsilons


class EpsilonSchedule:
    """ε for the N copies of one actor among all actors of the run."""

    def __init__(
        self, config: ExplorationConfig, actor: int, actors: int, copies: int, warmup: int = 0
    ) -> None:
        """Copy j of actor i is number i·N + j on the ladder.

        Args:
            config: kind and values of the schedule.
            actor: index of the actor.
            actors: number of actors.
            copies: N.
            warmup: env steps of the whole run with ε = 1, before any schedule.
        """
        self._config = config
        self._warmup = warmup if config.random_warmup else 0
        numbers = actor * copies + np.arange(copies)
        self._ladder = ladder(numbers, actors * copies, config.base, config.alpha)

    def epsilons(self, env_steps: int) -> Array:
        """ε of each copy.

        Args:
            env_steps: of the whole run so far.

        Returns:
            `[N]` float64.
        """
        c = self._config
        if env_steps < self._warmup:
            return np.ones(len(self._ladder))
        match c.kind:
            case "ladder":
                return self._ladder
            case "exponential":
                epsilon = exponential(env_steps, c.start, c.end, c.decay)
            case "linear":
                epsilon = linear(env_steps, c.start, c.end, c.decay_steps)
            case "constant":
                epsilon = c.start
        return np.full(len(self._ladder), epsilon)

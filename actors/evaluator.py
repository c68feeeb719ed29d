"""Evaluator: plays greedy episodes with published weights, apart from the exploring actors."""

from __future__ import annotations

import time

import numpy as np
import torch

from actors.agent import Agent
from actors.environments import make_environment
from actors.preprocessing import FrameStack
from common.config import Config
from common.handles import Handle
from common.networks import make_network
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import Array, EvaluationReport
from common.variables import VariableClient


class Evaluator:
    """Its copies share the episodes evenly: no copy plays more because its episodes are short."""

    def __init__(self, config: Config, variables: Handle, incarnation: int = 0) -> None:
        """Environments and an agent of its own.

        Args:
            config: of the run.
            variables: where weights are published.
            incarnation: gives other episodes than those of earlier lives.
        """
        self._config = config
        self._variables = VariableClient(variables)
        self._weights: Array | None = None
        evaluation = config.evaluation
        self._copies = min(evaluation.envs, evaluation.episodes)
        self._environment = make_environment(config.env, self._copies)
        seeds = integer_seeds(seed_sequence(config.seed, Role.EVALUATOR, 0, incarnation), 2)
        self._env_seed: int | None = seeds[0]
        spec = self.spec = self._environment.spec
        self._agent = Agent(
            make_network(spec, config.network),
            torch.device("cpu"),
            np.random.default_rng(seeds[1]),
        )
        self._stacks = FrameStack(self._copies, spec.stack, spec.frame)

    def evaluate(self) -> EvaluationReport:
        """`evaluation.episodes` episodes with the newest weights.

        Every call plays other episodes than the one before: a score seen twice is confirmed.
        """
        weights = self._variables.fetch()
        if weights is not None:
            # Copied: a view would pin Ray's shared memory for as long as the report lives.
            self._weights = np.array(weights)
            self._agent.load_weights(self._weights)
        report = self.play(self._config.evaluation.episodes)
        report.version = self._variables.version
        report.weights = self._weights
        return report

    def load_weights(self, weights: Array) -> None:
        """Evaluate these weights (wire format) instead of published ones."""
        self._agent.load_weights(weights)

    def play(self, episodes: int) -> EvaluationReport:
        """Play `episodes` episodes with the weights at hand.

        Raises:
            ValueError: no episode to play.
        """
        if episodes < 1:
            raise ValueError(f"episodes={episodes}: must be at least 1")
        start = time.perf_counter()
        evaluation = self._config.evaluation
        copies = self._copies
        quota = np.full(copies, episodes // copies) + (np.arange(copies) < episodes % copies)
        frames = self._environment.reset(self._env_seed)
        self._env_seed = None  # go on with the stream of random numbers, do not repeat it
        first = np.ones(copies, bool)
        ignored = np.zeros(copies, bool)
        returns, lengths = np.zeros(copies), np.zeros(copies, np.int64)
        finished: list[tuple[float, int]] = []
        epsilons = np.full(copies, evaluation.epsilon)
        while (quota > 0).any():
            choice = self._agent.select_actions(self._stacks.push(frames, first), epsilons)
            step = self._environment.step(choice.actions)
            returns += step.reward
            lengths += ~ignored
            done = step.terminated | step.truncated
            # A copy that is stuck for ever would hold up the evaluation for ever: its episode
            # counts as it is, and since it never ends, the copy plays no other.
            stuck = ~done & (lengths >= evaluation.max_episode_steps)
            for i in np.flatnonzero((done | stuck) & (quota > 0)):
                finished.append((float(returns[i]), int(lengths[i])))
                quota[i] = 0 if stuck[i] else quota[i] - 1
            returns[done] = 0
            lengths[done] = 0
            frames, first, ignored = step.observation, step.first, done
        return EvaluationReport(
            version=-1,
            learner_steps=self._agent.learner_steps,
            score=float(np.mean([ret for ret, _ in finished])),
            returns=[ret for ret, _ in finished],
            lengths=[length for _, length in finished],
            epsilon=evaluation.epsilon,
            wall_s=time.perf_counter() - start,
        )

    def close(self) -> None:
        """Free the environments."""
        self._environment.close()

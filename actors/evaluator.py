"""Evaluator: plays greedy episodes with published weights, apart from the exploring actors."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from actors.agent import Agent
from actors.environments import make_environment
from actors.preprocessing import FrameStack
from common.config import Config
from common.handles import Handle
from common.networks import make_network
from common.parts import WEIGHT_STORE, PartId
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import Array, EvaluationReport
from common.weights import WeightClient


class _Episode(NamedTuple):
    """A finished episode; see `EvaluationReport`."""

    ret: float
    length: int
    copy: int
    ending: str


@dataclass(slots=True)
class _Playing:
    """An unfinished evaluation: the episodes left to play, and the state of the copies."""

    quota: Array  # [N] episodes that each copy still has to finish
    frames: Array  # [N, *frame]
    first: Array  # [N] bool
    ignored: Array  # [N] bool: the next step only opens an episode
    returns: Array  # [N]
    lengths: Array  # [N] env steps
    wall_s: float
    finished: list[_Episode] = field(default_factory=list)


class Evaluator:
    """Plays greedy episodes, the same number in each copy however short its episodes are.

    Attributes:
        env_seed: the first reset of the copies takes it; the seeds of the copies follow from it,
            and later episodes of a copy continue its stream of random numbers.
        spec: of the environment.
    """

    def __init__(
        self,
        config: Config,
        weight_store: Handle,
        incarnation: int = 0,
        render: bool = False,
        role: Role = Role.EVALUATOR,
    ) -> None:
        """Environments and an agent of its own.

        Args:
            config: of the run.
            weight_store: to fetch weights from.
            incarnation: gives other episodes than earlier incarnations played.
            render: make `render` return pictures.
            role: gives other episodes than those of another role.
        """
        self._config = config
        self._weight_store = WeightClient(weight_store)
        self._weights: Array | None = None
        evaluation = config.evaluation
        self._copies = min(evaluation.envs, evaluation.episodes)
        seeds = integer_seeds(seed_sequence(config.seed, role, 0, incarnation), 2)
        self._environment = make_environment(config.env, self._copies, render, seeds[0])
        self.env_seed = seeds[0]
        self._next_seed: int | None = seeds[0]
        spec = self.spec = self._environment.spec
        self._agent = Agent(
            make_network(spec, config.network),
            torch.device("cpu"),
            np.random.default_rng(seeds[1]),
        )
        self._stacks = FrameStack(self._copies, spec.stack, spec.frame)
        self._playing: _Playing | None = None

    def evaluate(self, slice_s: float = math.inf) -> EvaluationReport | None:
        """Play for about `slice_s` seconds, so that the caller can follow or cancel an evaluation.

        A new evaluation starts with the newest weights and plays `evaluation.episodes` episodes,
        other ones than the previous evaluation: a score reached twice is confirmed.

        Returns:
            The report; None while episodes are left to play: call again.
        """
        if self._playing is None:
            weights = self._weight_store.fetch()
            if weights is not None:
                # Copied: a view would pin Ray's shared memory for as long as the report lives.
                self._weights = np.array(weights)
                self._agent.load_weights(self._weights)
            self.begin(self._config.evaluation.episodes)
        report = self.play_on(slice_s)
        if report is not None:
            report.version = self._weight_store.version
            report.weights = self._weights
        return report

    def reconnect(self, part: PartId, handle: Handle) -> None:
        """Use this handle of the weight store, which was restarted."""
        assert part == WEIGHT_STORE
        self._weight_store.reconnect(handle)

    def load_weights(self, weights: Array) -> None:
        """Evaluate these weights (wire format) instead of published ones."""
        self._agent.load_weights(weights)

    def play(self, episodes: int) -> EvaluationReport:
        """Play `episodes` episodes with the weights in use.

        Raises:
            ValueError: no episode to play.
        """
        self.begin(episodes)
        report = self.play_on()
        assert report is not None
        return report

    def begin(self, episodes: int) -> None:
        """Reset all copies for `episodes` episodes; this cancels an unfinished evaluation.

        Raises:
            ValueError: no episode to play.
        """
        if episodes < 1:
            raise ValueError(f"episodes={episodes}: must be at least 1")
        copies = self._copies
        start = time.perf_counter()
        frames = self._environment.reset(self._next_seed)
        self._next_seed = None  # later resets continue the stream of random numbers
        self._playing = _Playing(
            quota=np.full(copies, episodes // copies) + (np.arange(copies) < episodes % copies),
            frames=frames,
            first=np.ones(copies, bool),
            ignored=np.zeros(copies, bool),
            returns=np.zeros(copies),
            lengths=np.zeros(copies, np.int64),
            wall_s=time.perf_counter() - start,
        )

    def play_on(self, slice_s: float = math.inf) -> EvaluationReport | None:
        """Step all copies at least once, for about `slice_s` seconds.

        Returns:
            The report when all episodes are over, else None.
        """
        playing = self._playing
        assert playing is not None, "no evaluation was begun"
        start = time.perf_counter()
        while True:
            self._step(playing)
            elapsed_s = time.perf_counter() - start
            if not (playing.quota > 0).any() or elapsed_s >= slice_s:
                break
        playing.wall_s += elapsed_s
        if (playing.quota > 0).any():
            return None
        self._playing = None
        return EvaluationReport(
            version=-1,
            learner_steps=self._agent.learner_steps,
            score=float(np.mean([one.ret for one in playing.finished])),
            returns=[one.ret for one in playing.finished],
            lengths=[one.length for one in playing.finished],
            epsilon=self._config.evaluation.epsilon,
            wall_s=playing.wall_s,
            copies=[one.copy for one in playing.finished],
            endings=[one.ending for one in playing.finished],
        )

    def _step(self, playing: _Playing) -> None:
        """One step of every copy."""
        evaluation = self._config.evaluation
        stacks = self._stacks.push(playing.frames, playing.first)
        epsilons = np.full(self._copies, evaluation.epsilon)
        choice = self._agent.select_actions(stacks, epsilons, self._environment.legal)
        step = self._environment.step(choice.actions)
        playing.returns += step.reward
        playing.lengths += ~playing.ignored
        done = step.terminated | step.truncated
        # A copy that is stuck would block the evaluation for ever. Its episode counts as it is;
        # as it never ends, the copy plays no other.
        stuck = ~done & (playing.lengths >= evaluation.max_episode_steps)
        for i in np.flatnonzero((done | stuck) & (playing.quota > 0)):
            ending = "terminated" if step.terminated[i] else "cut off" if stuck[i] else "truncated"
            ret, length = float(playing.returns[i]), int(playing.lengths[i])
            playing.finished.append(_Episode(ret, length, int(i), ending))
            playing.quota[i] = 0 if stuck[i] else playing.quota[i] - 1
        playing.returns[done] = 0
        playing.lengths[done] = 0
        playing.frames, playing.first, playing.ignored = step.observation, step.first, done

    @property
    def frames(self) -> Array:
        """The current frames of the copies, `[N, *frame]`.

        Raises:
            RuntimeError: no evaluation is in progress.
        """
        if self._playing is None:
            raise RuntimeError("no evaluation is in progress")
        return self._playing.frames

    def render(self) -> list[Array]:
        """A picture of each copy; see `Environment.render`."""
        return self._environment.render()

    def close(self) -> None:
        """Free the environments."""
        self._environment.close()

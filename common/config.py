"""The configuration of one run: typed, frozen, validated; the one place with defaults."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from common.config_learner import LearnerConfig
from common.config_network import NetworkConfig
from common.config_operation import (
    CheckpointConfig,
    PlacementConfig,
    ReportConfig,
    SecurityConfig,
    SupervisionConfig,
)
from common.config_sections import (
    ActorsConfig,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    ReplayConfig,
    Section,
    StopConfig,
)
from common.text import counted


class Config(Section):
    """One run."""

    seed: int = Field(1, ge=0, lt=2**63, description="every random stream derives from it")
    env: EnvConfig = EnvConfig()
    network: NetworkConfig = NetworkConfig()
    exploration: ExplorationConfig = ExplorationConfig()
    actors: ActorsConfig = ActorsConfig()
    replay: ReplayConfig = ReplayConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    stop: StopConfig = StopConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    placement: PlacementConfig = PlacementConfig()
    report: ReportConfig = ReportConfig()
    security: SecurityConfig = SecurityConfig()

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        if isinstance(self.replay.capacity, int):
            self.check_capacity(self.replay.capacity)
        error = self.learner.samples_per_insert_error
        if error is not None and error < self.min_ratio_error:
            raise ValueError(
                f"learner.samples_per_insert_error={error:g}: must be at least "
                f"{self.min_ratio_error:g}, the larger of one batch and one actor's work × "
                "samples_per_insert, or actors and learner would wait for each other forever"
            )
        if self.stop.score is not None and self.evaluation.every_learner_steps is None:
            raise ValueError(
                f"stop.score={self.stop.score:g}: needs evaluations, and "
                "evaluation.every_learner_steps is none; set stop.score to none, too"
            )
        if self.checkpoint.exact and not self.learner.threads:
            raise ValueError(
                "learner.threads=auto, checkpoint.exact=true: set threads to a number, as another "
                "one may change the last bits of the weights, or checkpoint.exact to false"
            )
        if self.checkpoint.exact and self.learner.publish_s:
            raise ValueError(
                f"learner.publish_s={self.learner.publish_s:g}, checkpoint.exact=true: set "
                "learner.publish_s to 0, or checkpoint.exact to false, as with both the clock "
                "decides which weights act"
            )
        self._check_algorithm()
        return self

    def _check_algorithm(self) -> None:
        """Refuse choices that make no sense together.

        Raises:
            ValueError: names both keys.
        """
        if self.learner.value_rescaling and self.network.head == "categorical":
            raise ValueError(
                "learner.value_rescaling=true, network.head=categorical: the head's range of "
                "values is that of plain returns; use value, quantile or implicit-quantile"
            )
        if not self.learner.munchausen:
            return
        if self.learner.value_rescaling:
            raise ValueError(
                "learner.munchausen=true, learner.value_rescaling=true: one of them must be false, "
                "as the softmax policy needs values in the unit of the rewards"
            )
        if self.learner.double:
            raise ValueError(
                "learner.munchausen=true, learner.double=true: one of them must be false, as the "
                "softmax policy has no greedy action to evaluate"
            )
        if self.env.action_mask is not None:
            raise ValueError(
                f"learner.munchausen=true: env.action_mask={self.env.action_mask} must be none, as "
                "a transition does not hold the legal actions of the state that it begins in"
            )
        if self.network.head == "categorical":
            raise ValueError(
                "learner.munchausen=true: network.head must not be categorical; use value, "
                "quantile or implicit-quantile"
            )

    def check_capacity(self, transitions: int) -> None:
        """Refuse a memory that holds too few transitions for the other keys.

        Args:
            transitions: `replay.capacity`, or how many fit into so many bytes.

        Raises:
            ValueError: names both keys.
        """
        capacity = f"replay.capacity={self.replay.capacity}"
        if isinstance(self.replay.capacity, str):
            capacity += f" ({counted(transitions, 'transition')})"
        if transitions < self.learner.batch_size:
            raise ValueError(
                f"{capacity}: must be at least learner.batch_size={self.learner.batch_size}"
            )
        if transitions < self.learner.warmup_transitions:
            raise ValueError(
                f"learner.warmup_transitions={self.learner.warmup_transitions}: must not exceed "
                f"{capacity}, or learning would never start"
            )
        chunk = self.max_chunk_transitions
        if transitions // self.replay.shards < chunk:
            raise ValueError(
                f"{capacity}: each shard (replay.shards={self.replay.shards}) must hold the "
                f"largest message of an actor, {counted(chunk, 'transition')} (actors.envs × "
                "(actors.chunk_steps + learner.n_step))"
            )

    @property
    def max_chunk_transitions(self) -> int:
        """Largest number of transitions in one message of an actor."""
        return self.actors.envs * (self.actors.chunk_steps + self.learner.n_step)

    @property
    def insert_quantum(self) -> int:
        """Transitions of one call of an actor, which arrive message by message."""
        return self.actors.envs * max(self.actors.collect_steps, self.actors.chunk_steps)

    @property
    def exact_episode_steps(self) -> float:
        """With `checkpoint.exact`: env steps between two checkpoints, which no episode outlasts."""
        every = self.checkpoint.every_learner_steps
        if every is None:
            return math.inf
        inserts = every * self.learner.batch_size / self.learner.samples_per_insert
        return inserts / (self.actors.envs * max(1, self.actors.count))

    @property
    def min_ratio_error(self) -> float:
        """Smallest error range, in samples, that always lets one side continue."""
        return least_ratio_error(
            self.learner.samples_per_insert, self.insert_quantum, self.learner.batch_size
        )

    @property
    def ratio_error(self) -> float:
        """Error range of the limiter, in samples.

        By default it lets every actor and the learner have one call in flight at the same time.
        """
        given = self.learner.samples_per_insert_error
        if given is not None:
            return given
        acting = self.actors.count * self.insert_quantum * self.learner.samples_per_insert
        learning = self.learner.batch_size * self.learner.train_steps
        return float(acting + learning)


def least_ratio_error(samples_per_insert: float, insert_quantum: int, sample_quantum: int) -> float:
    """Smallest error range, in samples, of a limiter that cannot deadlock.

    Args:
        samples_per_insert: the ratio.
        insert_quantum: transitions of the smallest piece of acting.
        sample_quantum: samples of the smallest piece of learning.
    """
    return float(max(insert_quantum * samples_per_insert, sample_quantum))

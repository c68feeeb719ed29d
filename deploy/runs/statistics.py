"""Statistics of a run: counters, rates and scores, and the report lines made of them."""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from common.config import Config
from common.types import (
    ActorReport,
    Array,
    Episode,
    EvaluationReport,
    LearnerReport,
    ShardStatistics,
)
from deploy.runs.checkpoint_schema import RunState
from deploy.runs.metrics_file import MIN_RATE_S, Rate
from deploy.runs.shard_statistics import over_all_shards, plain
from replay_server.rate_limiter import RateLimiter

RECENT_EPISODES = 100
"""Episodes in the mean return of a report."""


@dataclass(slots=True)
class Counters:
    """Totals of a run, saved with every checkpoint.

    `restarts` are of parts; `lost_with_nodes` are those among them whose node was gone.
    """

    env_steps: int = 0
    frames: int = 0
    transitions: int = 0
    episodes: int = 0
    learner_steps: int = 0
    samples: int = 0
    evaluations: int = 0
    restarts: int = 0
    lost_with_nodes: int = 0
    dropped: int = 0
    wall_s: float = 0.0


@dataclass(slots=True)
class _Window:
    """Sums since the last report line."""

    episodes: list[Episode] = field(default_factory=list)
    actor_s: float = 0.0
    env_s: float = 0.0
    policy_s: float = 0.0
    insert_wait_s: float = 0.0
    fetches: int = 0
    train_s: float = 0.0
    sample_wait_s: float = 0.0
    publications: int = 0
    publishing_s: float = 0.0


class RunStatistics:
    """Collects the reports of all parts; makes report lines and the summary.

    Attributes:
        counters: totals, earlier attempts included.
        score: of the newest evaluation, earlier attempts included; NaN before the first.
        best_score: likewise; −∞ before the first.
        last_evaluation: of this attempt.
        reported_s: `time.monotonic()` of the last report line.
    """

    def __init__(self, config: Config, started_s: float) -> None:
        """Statistics of a run that has done nothing yet.

        Args:
            config: of the run.
            started_s: `time.monotonic()` when the command began.
        """
        self.counters = Counters()
        self.score = math.nan
        self.best_score = -math.inf
        self.last_evaluation: EvaluationReport | None = None
        self.reported_s = started_s
        self._config = config
        self._started_s = started_s
        self._wall_before_s = 0.0
        self._acting_after_s = math.nan
        self._actors: dict[int, ActorReport] = {}
        self._learner: LearnerReport | None = None
        self._statistics: dict[str, Any] | None = None
        self._checkpoints, self._checkpoint_s = 0, math.nan
        self._window = _Window()
        self._recent: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._env_rate, self._learner_rate = Rate(), Rate()
        # Seconds when acting and learning began in this attempt; mean rates start there.
        self._acting_since: float | None = None
        self._learning_since: float | None = None
        self._checkpoints_failed = 0
        self._checkpoint_at_s = started_s

    def restore(self, state: RunState) -> None:
        """Continue from the counters and scores of a checkpoint."""
        self.counters = Counters(**state.counters.model_dump())
        self._wall_before_s = self.counters.wall_s
        if state.best_score is not None:
            self.best_score = state.best_score
        if state.score is not None:
            self.score = state.score

    def state(self) -> dict[str, Any]:
        """Scores for a checkpoint, which holds the counters too."""
        return {"score": _rounded(self.score, 9), "best_score": _rounded(self.best_score, 9)}

    @property
    def wall_s(self) -> float:
        """Seconds since the command began, plus those of earlier attempts."""
        return self._wall_before_s + time.monotonic() - self._started_s

    @property
    def evaluated_steps(self) -> int:
        """Learner steps of the last evaluated weights of this attempt; −1 before the first."""
        return self.last_evaluation.learner_steps if self.last_evaluation else -1

    def resize(self, config: Config) -> None:
        """Apply another number of actors."""
        self._config = config
        self._actors = {i: r for i, r in self._actors.items() if i < config.actors.count}

    # --- reports of the parts ----------------------------------------------------------------

    def actor(self, report: ActorReport) -> None:
        """Add an actor's report."""
        counters, window, now = self.counters, self._window, time.monotonic()
        counters.env_steps += report.env_steps
        counters.frames += report.frames
        counters.transitions += report.transitions
        counters.dropped += report.dropped
        counters.episodes += len(report.episodes)
        window.episodes += report.episodes
        window.actor_s += report.wall_s
        window.env_s += report.env_s
        window.policy_s += report.policy_s
        window.insert_wait_s += report.insert_wait_s
        window.fetches += report.fetches
        self._actors[report.index] = report
        self._recent.extend(episode.ret for episode in report.episodes)
        if self._acting_since is None:
            self._acting_after_s = now - self._started_s
            self._acting_since = now
        self._env_rate.add(now, counters.env_steps)

    def learner(self, report: LearnerReport) -> None:
        """Add a report of the learner's."""
        now = time.monotonic()
        self.counters.learner_steps = report.learner_steps
        self.counters.samples += report.samples
        self._learner = report
        self._window.train_s += report.wall_s
        self._window.sample_wait_s += report.sample_wait_s
        self._window.publications += report.publications
        self._window.publishing_s += report.publishing_s
        if self._learning_since is None:
            self._learning_since = now
        self._learner_rate.add(now, report.learner_steps)

    def replay(self, shards: list[ShardStatistics]) -> None:
        """Add statistics of all shards; the next report line contains them."""
        self._statistics = {
            "shards": [plain(one) for one in shards],
            "all": plain(over_all_shards(shards)),
        }

    def checkpoint(self, wall_s: float) -> None:
        """Count a checkpoint that took `wall_s` seconds to write."""
        self._checkpoints += 1
        self._checkpoint_s = wall_s
        self._checkpoint_at_s = time.monotonic()

    def checkpoint_failed(self) -> None:
        """Count a checkpoint that could not be written."""
        self._checkpoints_failed += 1

    def learner_steps_per_s(self, now: float) -> float:
        """Rate of the learner over the last seconds before `now`."""
        return self._learner_rate.per_s(now)

    @property
    def version(self) -> int:
        """Newest version of the weights that a part has reported; −1 before the first."""
        acting = max((report.version for report in self._actors.values()), default=-1)
        return max(acting, self._learner.version if self._learner else -1)

    def evaluation(self, report: EvaluationReport) -> bool:
        """Add an evaluation; True if its score is the best so far."""
        self.counters.evaluations += 1
        self.score = report.score
        self.last_evaluation = report
        if report.score <= self.best_score:
            return False
        self.best_score = report.score
        return True

    # --- report lines and the summary --------------------------------------------------------

    def line(self, limiter: RateLimiter, evaluating: bool, actors_up: int) -> dict[str, Any]:
        """A report line; sums since the last one start again at zero.

        Args:
            limiter: of the run.
            evaluating: an evaluation is in progress.
            actors_up: number of actors that are ready.
        """
        now = time.monotonic()
        counters = self.counters
        line: dict[str, Any] = {
            "wall_s": round(self.wall_s, 3),
            "env_steps": counters.env_steps,
            "frames": counters.frames,
            "transitions": counters.transitions,
            "learner_steps": counters.learner_steps,
            "env_steps_per_s": self._env_rate.per_s(now),
            "learner_steps_per_s": self._learner_rate.per_s(now),
            "samples_per_insert": limiter.ratio,
            "score": self.score,
            "best_score": self.best_score,
            "evaluating": evaluating,
            "return_mean_100": _mean(self._recent),
            "episodes_total": counters.episodes,
            **self._learner_line(),
            "replay": self._statistics,
            "restarts": counters.restarts,
            "lost_with_nodes": counters.lost_with_nodes,
            "dropped": counters.dropped,
            "checkpoints": self._checkpoints,
            "checkpoints_failed": self._checkpoints_failed,
            "checkpoint_s": self._checkpoint_s,
            # Before the first one: of the attempt, so that a storage that never worked is noticed.
            "checkpoint_age_s": round(now - self._checkpoint_at_s, 1),
            "actors_up": actors_up,
            **self._busy_line(now),
            "limiter": limiter.explain(),
            "limiter_waiting": limiter.waiting,
            "actors_waiting": float(limiter.waiting == "actors"),
            "learner_waiting": float(limiter.waiting == "learner"),
            "limiter_waiting_s": round(limiter.waiting_s, 3),
            "returns_by_epsilon": _by_epsilon(self._window.episodes),
            "episodes": [[e.ret, e.length, round(e.epsilon, 6)] for e in self._window.episodes],
        }
        self._window = _Window()
        self._statistics = None
        self.reported_s = now
        return line

    def _learner_line(self) -> dict[str, Any]:
        """Losses, weights and memory; NaN where the learner has not reported yet."""
        learner = self._learner

        # NaN, not 0: shards fill before the first report, and totals must not fall at a resume.
        def reported(name: str) -> float:
            return getattr(learner, name) if learner else math.nan

        def in_shards(name: str) -> float:
            return sum(getattr(shard, name) for shard in learner.replay) if learner else math.nan

        # The mean over the first few actors that report would be another number.
        complete = len(self._actors) == self._config.actors.count
        epsilons = [report.epsilon for report in self._actors.values()] if complete else []
        return {
            "epsilon": _mean(epsilons),
            "device": learner.device if learner else None,
            "learner_threads": reported("threads"),
            "learner_on_gpu": float(learner.device.startswith("cuda")) if learner else math.nan,
            "loss": reported("loss"),
            "mean_q": reported("mean_q"),
            "td_error": reported("td_error"),
            "grad_norm": reported("grad_norm"),
            "weights_version": reported("version"),
            "weights_fetched": self._window.fetches,
            "weights_bytes": reported("weights_bytes"),
            "oldest_acting_version": min(
                (report.version for report in self._actors.values()), default=math.nan
            ),
            "target_syncs": reported("target_syncs"),
            "weight_lag": reported("weight_lag"),
            "data_age": reported("data_age"),
            "replay_size": in_shards("size"),
            "replay_evicted": in_shards("evicted"),
            "stale_priorities": in_shards("stale"),
            "refused_priorities": in_shards("refused"),
            "replay_bytes": in_shards("nbytes"),
            "replay_evicted_unsampled": in_shards("evicted_unsampled"),
            "replay_orphaned": in_shards("orphaned"),
            "rounds_in_flight": reported("rounds_in_flight"),
        }

    def _busy_line(self, now: float) -> dict[str, Any]:
        """Shares of the time since the last report line."""
        window, actors = self._window, self._config.actors.count
        interval_s = max(MIN_RATE_S, now - self.reported_s)  # two lines may follow each other fast
        return {
            "actors": actors,
            "actor_busy": window.actor_s / (interval_s * actors),
            "env_share": window.env_s / window.actor_s if window.actor_s else math.nan,
            "policy_share": window.policy_s / window.actor_s if window.actor_s else math.nan,
            "insert_wait_s": window.insert_wait_s,
            "inserts_in_flight": sum(r.inserts_in_flight for r in self._actors.values()),
            "learner_busy": (window.train_s - window.sample_wait_s) / interval_s,
            "sample_wait_s": window.sample_wait_s,
            "publications_per_s": window.publications / interval_s,
            "publishing_s": window.publishing_s,
        }

    def summary(self, limiter: RateLimiter, policy: dict[str, Array]) -> dict[str, Any]:
        """Totals, mean rates and scores of the run.

        Args:
            limiter: of the run.
            policy: the last weights.
        """
        counters, evaluation = self.counters, self.last_evaluation
        return {
            "env_steps": counters.env_steps,
            "frames": counters.frames,
            "transitions": counters.transitions,
            "learner_steps": counters.learner_steps,
            "episodes": counters.episodes,
            "wall_s": round(self.wall_s, 2),
            "acting_after_s": _rounded(self._acting_after_s, 2),
            "env_steps_per_s": _mean_rate(self._acting_since, self._env_rate.increase),
            "learner_steps_per_s": _mean_rate(self._learning_since, self._learner_rate.increase),
            "samples_per_insert": round(limiter.ratio, 3),
            "score": _rounded(self.score, 3),
            "score_episodes": len(evaluation.returns) if evaluation else 0,
            "device": self._learner.device if self._learner else None,
            "score_epsilon": self._config.evaluation.epsilon,
            "best_score": _rounded(self.best_score, 3),
            "restarts": counters.restarts,
            "dropped": counters.dropped,
            "weights_sha256": hash_arrays(policy),
        }


def hash_arrays(arrays: dict[str, Array]) -> str:
    """SHA-256 over names and bytes; equal if and only if all arrays are, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _mean_rate(since_s: float | None, events: float) -> float:
    """Events per second since acting or learning began."""
    if since_s is None or time.monotonic() - since_s < MIN_RATE_S:
        return 0.0
    return round(events / (time.monotonic() - since_s), 1)


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _by_epsilon(episodes: list[Episode]) -> dict[str, dict[str, float]]:
    """Mean return per band of ε, because returns at different ε are not comparable."""
    bands: dict[str, list[float]] = {}
    for episode in episodes:
        bands.setdefault(_band(episode.epsilon), []).append(episode.ret)
    return {
        band: {"mean": _mean(returns), "episodes": len(returns)}
        for band, returns in sorted(bands.items())
    }


def _band(epsilon: float) -> str:
    for limit in (0.01, 0.05, 0.2, 0.5):
        if epsilon <= limit:
            return f"<={limit}"
    return "<=1"

"""One loop: hand out work, wait, read reports, replace what died, save, stop.

Every actor has at most one `collect` under way, so its report is its heartbeat. The limiter is
asked before work is handed out; the side that waits does so here, and nothing blocks in a shard.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from common import wire
from common.checkpoint import Checkpoint, write_atomically
from common.config import Config
from common.handles import Future, Handle, RemoteDiedError
from common.types import (
    ActorReport,
    Array,
    Episode,
    EvaluationReport,
    LearnerReport,
    UserError,
)
from deploy.metrics import MIN_RATE_S, MetricsWriter, Rate, RunFolder
from deploy.remote import part_name
from replay_server.rate_limiter import RateLimiter

if TYPE_CHECKING:  # it imports torch; see deploy.run
    from deploy.program import Program

CHECKPOINT_FORMAT = 1
TRAIN_CALLS_IN_FLIGHT = 2
"""Two, so that the learner never waits for the supervisor to hear of the first."""
MAX_RESTARTS_WITHOUT_REPORT = 3
"""An actor that dies so often before its first report has a reason that restarts do not mend."""
WAIT_S = 0.2
"""How long the loop sleeps at the most: signals and wall-clock limits are seen by then."""


FINISH_S = 30.0
"""How long a clean stop waits for actors; one that hangs must not hold up the end of the run."""
CLOSE_S = 5.0
"""How long parts have to free what they hold; then their processes are ended anyway."""


class RunFailedError(Exception):
    """The run cannot go on; the message says why."""


class DivergedError(RunFailedError):
    """Training diverged: what the learner holds is not worth saving."""


class View(Protocol):
    """Where progress is shown."""

    def update(self, report: dict[str, Any]) -> None:
        """A new report."""
        ...

    def message(self, text: str) -> None:
        """Something worth a line of its own."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


@dataclass(slots=True)
class Counters:
    """What a run has done; each in one unit. Saved with every checkpoint."""

    env_steps: int = 0
    frames: int = 0
    transitions: int = 0
    episodes: int = 0
    learner_steps: int = 0
    samples: int = 0
    evaluations: int = 0
    restarts: int = 0
    wall_s: float = 0.0


@dataclass(slots=True)
class _Seat:
    """The place of a part that can be replaced: who sits there, and what it is at."""

    title: str
    spawn: Callable[[int], Handle]  # incarnation → handle
    handle: Handle
    incarnation: int
    call: Future[Any] | None = None
    failures: int = 0
    epsilon: float = math.nan
    inserts_in_flight: int = 0

    @property
    def name(self) -> str:
        return part_name(self.title, self.incarnation)


@dataclass(slots=True)
class _Window:
    """What happened since the last line of metrics."""

    episodes: list[Episode] = field(default_factory=list)
    actor_s: float = 0.0
    env_s: float = 0.0
    policy_s: float = 0.0
    insert_wait_s: float = 0.0
    train_s: float = 0.0
    sample_wait_s: float = 0.0


class Supervisor:
    """Runs a program until a stop condition, a signal, or a failure."""

    def __init__(self, program: Program, folder: RunFolder, view: View, started_s: float) -> None:
        """A supervisor at the start of a run.

        Args:
            program: all parts, made.
            folder: where the run is recorded.
            view: where progress is shown.
            started_s: `time.monotonic()` when the command began.
        """
        self._program = program
        self._config: Config = program.config
        self._folder = folder
        self._view = view
        self._started_s = started_s
        self._counters = Counters()
        self._seats = [
            _Seat(f"actor-{i}", partial(program.spawn_actor, i), handle, program.incarnation)
            for i, handle in enumerate(program.actors)
        ]
        self._idle: deque[_Seat] = deque(self._seats)
        self._training: deque[tuple[int, Future[LearnerReport]]] = deque()
        self._evaluator: _Seat | None = None  # made when first needed
        config = self._config
        self._limiter = RateLimiter(
            config.learner.samples_per_insert,
            config.learner.warmup_transitions,
            config.ratio_error,
            config.insert_quantum,
            config.learner.batch_size,
        )
        self._stop_requested: str | None = None
        self._best_score = -math.inf
        self._last_score = math.nan
        self._last_evaluation: EvaluationReport | None = None
        self._next_evaluation = config.evaluation.every_learner_steps
        self._saved_steps = -1
        self._checkpoint_tried_s = started_s
        self._checkpoint_tried_steps = 0
        self._reported_s = started_s
        self._acting_after_s = math.nan
        self._window = _Window()
        self._recent: deque[float] = deque(maxlen=100)
        self._env_rate, self._learner_rate = Rate(), Rate()
        # (seconds, count) when acting and learning began in this life: means are taken from there.
        self._acting_since: tuple[float, int] | None = None
        self._learning_since: tuple[float, int] | None = None
        self._wall_before_s = 0.0
        self._last_learner: LearnerReport | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. The limiter is the configuration's: an old one never returns.

        Raises:
            UserError: the checkpoint is of another environment or network.
        """
        state = checkpoint.state
        check_origin(checkpoint, self._config)
        known = Counters.__dataclass_fields__
        self._counters = Counters(**{k: v for k, v in state["counters"].items() if k in known})
        self._wall_before_s = self._counters.wall_s
        if state["best_score"] is not None:
            self._best_score = float(state["best_score"])
        tensors = checkpoint.tensors["learner"]
        buffer = wire.encode(tensors, state["learner"])
        self._program.learner.call("load_state", buffer).result()
        every = self._config.evaluation.every_learner_steps
        self._next_evaluation = (self._counters.learner_steps // every + 1) * every
        self._saved_steps = self._checkpoint_tried_steps = self._counters.learner_steps

    def request_stop(self, reason: str) -> None:
        """Ask for a clean stop; safe to call from a signal handler."""
        self._stop_requested = self._stop_requested or reason

    def run(self) -> dict[str, Any]:
        """Run to the end.

        Returns:
            The summary: what was done, how fast, the score, why it stopped.

        Raises:
            RunFailedError: a part that cannot be replaced is gone, training diverged, or the run
                folder cannot be written. What can be saved was saved.
        """
        metrics = MetricsWriter(self._folder.path)
        try:
            reason = self._loop(metrics)
            self._finish(reason)
            self._save()
            summary = self._summary(reason)
            self._report(metrics)
            self._folder.write_summary(summary)
            self._close_parts()
            return summary
        except UserError:
            raise
        except DivergedError as error:
            raise RunFailedError(f"{error}; {self._resume_hint()}") from error
        except (RunFailedError, RemoteDiedError, OSError) as error:
            self._save_what_can_be()
            raise RunFailedError(f"{error}; {self._resume_hint()}") from error
        except Exception:  # of the user's environment, inline: its traceback is what they need
            self._save_what_can_be()
            raise
        finally:
            metrics.close()

    # --- the loop ---------------------------------------------------------------------------

    def _loop(self, metrics: MetricsWriter) -> str:
        while True:
            reason = self._stop_reason()
            if reason is not None:
                return reason
            handed_out = self._hand_out()
            calls = self._calls()
            if not calls and not handed_out:
                raise RunFailedError(f"nobody can go on: {self._limiter.explain()}")
            self._settle(self._program.runtime.wait(calls, WAIT_S))
            now = time.monotonic()
            if now - self._reported_s >= self._config.report.every_s:
                self._report(metrics)
            if self._checkpoint_due(now):
                self._save_or_say_so()

    def _hand_out(self) -> bool:
        """Give work to whoever is idle and may go on; whether anybody got some."""
        config = self._config
        anybody = False
        amount = config.insert_quantum
        # Each idle actor is asked once: inline, a call is over before the next is made.
        for _ in range(len(self._idle)):
            if not self._limiter.can_insert(amount):
                break
            seat = self._idle.popleft()
            self._limiter.begin_insert(amount)
            seat.call = seat.handle.call(
                "collect", config.actors.collect_steps, self._counters.env_steps
            )
            anybody = True
        while len(self._training) < TRAIN_CALLS_IN_FLIGHT:
            steps = min(
                config.learner.train_steps, self._limiter.sampleable(config.learner.batch_size)
            )
            if config.stop.learner_steps is not None:
                under_way = sum(n for n, _ in self._training)
                left = config.stop.learner_steps - self._counters.learner_steps - under_way
                steps = min(steps, left)
            if steps < 1:
                break
            self._limiter.begin_sample(steps * config.learner.batch_size)
            self._training.append((steps, self._program.learner.call("train", steps)))
            anybody = True
        evaluation_due = self._counters.learner_steps >= self._next_evaluation
        if evaluation_due and (self._evaluator is None or self._evaluator.call is None):
            self._evaluate()
            anybody = True
        return anybody

    def _evaluate(self) -> None:
        if self._evaluator is None:  # its process would slow the start of all others
            incarnation, spawn = self._program.incarnation, self._program.spawn_evaluator
            self._evaluator = _Seat("evaluator", spawn, spawn(incarnation), incarnation)
        self._evaluator.call = self._evaluator.handle.call("evaluate")

    def _calls(self) -> list[Future[Any]]:
        calls: list[Future[Any]] = [seat.call for seat in self._seats if seat.call is not None]
        if self._training:
            calls.append(self._training[0][1])
        if self._evaluator is not None and self._evaluator.call is not None:
            calls.append(self._evaluator.call)
        return calls

    def _settle(self, ready: list[Future[Any]], replace: bool = True) -> None:
        done = {id(future) for future in ready}
        for seat in self._seats:
            if seat.call is not None and id(seat.call) in done:
                self._settle_actor(seat, replace)
        while self._training and (id(self._training[0][1]) in done or self._training[0][1].done()):
            self._settle_learner()
        evaluator = self._evaluator
        if evaluator is not None and evaluator.call is not None and id(evaluator.call) in done:
            self._settle_evaluation(evaluator)

    def _outcome(self, seat: _Seat, replace: bool) -> Any:
        """What the seat's call returned; None, and a new part on the seat, if it failed."""
        assert seat.call is not None
        call, seat.call = seat.call, None
        try:
            report = call.result()
        except UserError:
            raise
        except Exception as error:  # whatever an environment raises, or the end of its process
            if isinstance(error, RemoteDiedError) and error.part != seat.name:
                raise  # this part is well, another one that it talks to is gone
            if replace:
                self._replace(seat, error)
            return None
        seat.failures = 0
        return report

    def _settle_actor(self, seat: _Seat, replace: bool = True) -> None:
        report: ActorReport | None = self._outcome(seat, replace)
        self._idle.append(seat)
        transitions = report.transitions if report else 0
        self._limiter.end_insert(self._config.insert_quantum, transitions)
        if report is None:
            return
        seat.epsilon = report.epsilon
        seat.inserts_in_flight = report.inserts_in_flight
        counters, window = self._counters, self._window
        counters.env_steps += report.env_steps
        counters.frames += report.frames
        counters.transitions += report.transitions
        counters.episodes += len(report.episodes)
        window.episodes += report.episodes
        window.actor_s += report.wall_s
        window.env_s += report.env_s
        window.policy_s += report.policy_s
        window.insert_wait_s += report.insert_wait_s
        self._recent.extend(episode.ret for episode in report.episodes)
        now = time.monotonic()
        if self._acting_since is None:
            self._acting_after_s = now - self._started_s
            self._acting_since = (now, counters.env_steps)
        self._env_rate.add(now, counters.env_steps)

    def _replace(self, seat: _Seat, error: Exception) -> None:
        """A new part on the seat of one that failed: same index, same ε, fresh streams."""
        seat.failures += 1
        cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if seat.failures > MAX_RESTARTS_WITHOUT_REPORT:
            raise RunFailedError(
                f"{seat.title} failed {seat.failures} times in a row: {cause}"
            ) from error
        self._program.runtime.kill(seat.handle)
        seat.incarnation += 1
        seat.handle = seat.spawn(seat.incarnation)
        self._counters.restarts += 1
        self._view.message(f"{seat.title} was replaced: {cause}")

    def _settle_learner(self) -> None:
        steps, call = self._training.popleft()
        report = call.result()
        self._limiter.end_sample(steps * self._config.learner.batch_size, report.samples)
        self._counters.learner_steps = report.learner_steps
        self._counters.samples += report.samples
        self._last_learner = report
        self._window.train_s += report.wall_s
        self._window.sample_wait_s += report.sample_wait_s
        now = time.monotonic()
        if self._learning_since is None:
            self._learning_since = (now, report.learner_steps)
        self._learner_rate.add(now, report.learner_steps)
        if report.diverged:
            self._fail_diverged(report)

    def _fail_diverged(self, report: LearnerReport) -> None:
        path = self._folder.path / "diverged-batch.rdqn"
        assert report.batch is not None
        write_atomically(path, report.batch.tobytes())
        raise DivergedError(
            f"loss or gradient is not finite after {report.learner_steps} learner steps; the batch "
            f"is in {path}; it was not trained on. Lower learner.learning_rate, or look at the "
            "rewards"
        )

    def _settle_evaluation(self, seat: _Seat) -> None:
        report: EvaluationReport | None = self._outcome(seat, replace=True)
        if report is None:
            return
        every = self._config.evaluation.every_learner_steps
        self._next_evaluation = max(
            self._next_evaluation + every, self._counters.learner_steps // every * every
        )
        self._counters.evaluations += 1
        self._last_score = report.score
        self._last_evaluation = report
        if report.score > self._best_score:
            self._best_score = report.score
            self._folder.save_best(report)

    # --- stopping ---------------------------------------------------------------------------

    def _stop_reason(self) -> str | None:
        stop, counters = self._config.stop, self._counters
        if self._stop_requested is not None:
            return self._stop_requested
        if stop.score is not None and self._last_score >= stop.score:
            return "score"
        if stop.learner_steps is not None and counters.learner_steps >= stop.learner_steps:
            return "learner_steps"
        if stop.env_steps is not None and counters.env_steps >= stop.env_steps:
            return "env_steps"
        if stop.wall_s is not None and self._wall_s() >= stop.wall_s:
            return "wall_s"
        return None

    def _finish(self, reason: str) -> None:
        """Let work under way end, and evaluate the last weights if there is time to."""
        in_a_hurry = reason in ("score", "wall_s", "interrupted", "terminated")
        self._settle_all(evaluation=not in_a_hurry)
        while not in_a_hurry and self._evaluated_steps < self._counters.learner_steps:
            self._program.learner.call("publish").result()
            self._evaluate()
            self._settle_all(evaluation=True)

    @property
    def _evaluated_steps(self) -> int:
        return self._last_evaluation.learner_steps if self._last_evaluation else -1

    def _settle_all(self, evaluation: bool) -> None:
        """Wait for the learner, for actors up to `FINISH_S`, and for the evaluator if asked to.

        An actor that dies now is not replaced.
        """
        deadline = time.monotonic() + FINISH_S
        while True:
            calls: list[Future[Any]] = [call for _, call in self._training]
            if time.monotonic() < deadline:
                calls += [seat.call for seat in self._seats if seat.call is not None]
            if evaluation and self._evaluator is not None and self._evaluator.call is not None:
                calls.append(self._evaluator.call)
            if not calls:
                break
            self._settle(self._program.runtime.wait(calls, WAIT_S), replace=False)
        for seat in self._seats:
            if seat.call is not None:
                self._view.message(f"{seat.title} did not answer within {FINISH_S:g} s")

    def _close_parts(self) -> None:
        """Let environments free what they hold, as far as they do so soon."""
        seats = [*self._seats, *([self._evaluator] if self._evaluator else [])]
        closing = [seat.handle.call("close") for seat in seats if seat.call is None]
        deadline = time.monotonic() + CLOSE_S
        while closing and time.monotonic() < deadline:
            ready = {id(call) for call in self._program.runtime.wait(closing, WAIT_S)}
            closing = [call for call in closing if id(call) not in ready]

    def _wall_s(self) -> float:
        return self._wall_before_s + time.monotonic() - self._started_s

    # --- records ----------------------------------------------------------------------------

    def _checkpoint_due(self, now: float) -> bool:
        checkpoint = self._config.checkpoint
        since = self._counters.learner_steps - self._checkpoint_tried_steps
        if since < 1:
            return False
        by_steps = (
            checkpoint.every_learner_steps is not None and since >= checkpoint.every_learner_steps
        )
        by_time = (
            checkpoint.every_s is not None and now - self._checkpoint_tried_s >= checkpoint.every_s
        )
        return by_steps or by_time

    def _save(self) -> None:
        """Checkpoint the run. Replay contents are not part of it yet."""
        if self._counters.learner_steps == self._saved_steps:
            return
        buffer: Array = self._program.learner.call("state").result()
        tensors, learner = wire.decode(buffer)
        self._counters.wall_s = self._wall_s()
        # The learner may be a call ahead of what was reported; its own count names the checkpoint.
        steps = int(learner["learner_steps"])
        state = {
            "format": CHECKPOINT_FORMAT,
            "counters": asdict(self._counters) | {"learner_steps": steps},
            "learner": learner,
            "best_score": self._best_score if math.isfinite(self._best_score) else None,
            "config": self._config.model_dump(mode="json"),
        }
        self._folder.checkpoints.save(steps, {"learner": tensors}, state)
        self._saved_steps = steps

    def _save_or_say_so(self) -> None:
        """A checkpoint that cannot be written does not end the run: the one before it is intact."""
        self._checkpoint_tried_s = time.monotonic()
        self._checkpoint_tried_steps = self._counters.learner_steps
        try:
            self._save()
        except OSError as error:  # tried again when the next one is due
            self._view.message(f"checkpoint could not be written: {error}; going on")

    def _save_what_can_be(self) -> None:
        with suppress(Exception):  # the run has failed already: its reason is what counts
            self._save()

    def _report(self, metrics: MetricsWriter) -> None:
        now = time.monotonic()
        counters, window = self._counters, self._window
        learner = self._last_learner
        replay = learner.replay if learner else []
        # The last report may follow hard on the one before it.
        interval_s = max(MIN_RATE_S, now - self._reported_s)
        epsilons = [s.epsilon for s in self._seats if not math.isnan(s.epsilon)]
        report: dict[str, Any] = {
            "wall_s": round(self._wall_s(), 3),
            "env_steps": counters.env_steps,
            "frames": counters.frames,
            "transitions": counters.transitions,
            "learner_steps": counters.learner_steps,
            "env_steps_per_s": self._env_rate.per_s(now),
            "learner_steps_per_s": self._learner_rate.per_s(now),
            "samples_per_insert": self._limiter.ratio,
            "score": self._last_score,
            "best_score": self._best_score,
            "return_mean_100": _mean(self._recent),
            "episodes_total": counters.episodes,
            "epsilon": _mean(epsilons),
            "loss": learner.loss if learner else math.nan,
            "mean_q": learner.mean_q if learner else math.nan,
            "td_error": learner.td_error if learner else math.nan,
            "grad_norm": learner.grad_norm if learner else math.nan,
            "weights_version": learner.version if learner else 0,
            "target_syncs": learner.target_syncs if learner else 0,
            "weight_lag": learner.weight_lag if learner else math.nan,
            "data_age": learner.data_age if learner else math.nan,
            "replay_size": sum(shard.size for shard in replay),
            "replay_evicted": sum(shard.evicted for shard in replay),
            "stale_priorities": sum(shard.stale for shard in replay),
            "refused_priorities": sum(shard.refused for shard in replay),
            "restarts": counters.restarts,
            "actor_busy": window.actor_s / (interval_s * len(self._seats)),
            "env_share": window.env_s / window.actor_s if window.actor_s else math.nan,
            "policy_share": window.policy_s / window.actor_s if window.actor_s else math.nan,
            "insert_wait_s": window.insert_wait_s,
            "inserts_in_flight": sum(seat.inserts_in_flight for seat in self._seats),
            "rounds_in_flight": learner.rounds_in_flight if learner else 0,
            "learner_busy": (window.train_s - window.sample_wait_s) / interval_s,
            "sample_wait_s": window.sample_wait_s,
            "limiter": self._limiter.explain(),
            "returns_by_epsilon": _by_epsilon(window.episodes),
            "episodes": [[e.ret, e.length, round(e.epsilon, 6)] for e in window.episodes],
        }
        metrics.write(report)
        self._view.update(report)
        self._window = _Window()
        self._reported_s = now

    def _summary(self, reason: str) -> dict[str, Any]:
        counters = self._counters
        wall_s = self._wall_s()
        weights = self._program.learner.call("state").result()
        policy = {k: v for k, v in wire.decode(weights)[0].items() if k.startswith("policy.")}
        evaluation = self._last_evaluation
        return {
            "run": str(self._folder.path),
            "env_steps": counters.env_steps,
            "frames": counters.frames,
            "transitions": counters.transitions,
            "learner_steps": counters.learner_steps,
            "episodes": counters.episodes,
            "wall_s": round(wall_s, 2),
            "acting_after_s": _rounded(self._acting_after_s, 2),
            "env_steps_per_s": _mean_rate(self._acting_since, counters.env_steps),
            "learner_steps_per_s": _mean_rate(self._learning_since, counters.learner_steps),
            "samples_per_insert": round(self._limiter.ratio, 3),
            "score": _rounded(self._last_score, 3),
            "score_episodes": len(evaluation.returns) if evaluation else 0,
            "score_epsilon": self._config.evaluation.epsilon,
            "best_score": _rounded(self._best_score, 3),
            "protocol": self._program.spec.protocol,
            "restarts": counters.restarts,
            "weights_sha256": hash_arrays(policy),
            "stop_reason": reason,
        }

    def _resume_hint(self) -> str:
        if self._folder.checkpoints.paths():
            return f"go on from the last checkpoint with: raydqn resume {self._folder.path}"
        return "there is no checkpoint yet"


def hash_arrays(arrays: dict[str, Array]) -> str:
    """SHA-256 over names and bytes: equal exactly if all weights are, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def check_origin(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint that was made with another environment or network.

    Raises:
        UserError: names the key and both values.
    """
    try:
        saved = checkpoint.state["config"]
        missing = {"counters", "learner", "best_score"} - set(checkpoint.state)
        if checkpoint.state["format"] != CHECKPOINT_FORMAT or missing:
            raise KeyError("format")
        if "learner" not in checkpoint.tensors:
            raise KeyError("learner")
    except KeyError:
        raise UserError(f"{checkpoint.path}: is of another version of raydqn") from None
    mine = config.model_dump(mode="json")
    same = [("env", key) for key in ("id", "observation", "kwargs", "stack")]
    for section, key in [*same, *(("network", key) for key in mine["network"])]:
        was, wanted = saved[section].get(key), mine[section][key]
        if was != wanted:
            raise UserError(
                f"{section}.{key}={wanted}: the checkpoint {checkpoint.path} was made with {was}, "
                f"it is of another {'environment' if section == 'env' else section}"
            )


def _mean_rate(since: tuple[float, int] | None, count: int) -> float:
    """Events per second since acting or learning began."""
    if since is None or time.monotonic() - since[0] < MIN_RATE_S:
        return 0.0
    return round((count - since[1]) / (time.monotonic() - since[0]), 1)


def _mean(values: Any) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _by_epsilon(episodes: list[Episode]) -> dict[str, dict[str, float]]:
    """Mean return per band of ε: returns of explorers are no score, and mix badly."""
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

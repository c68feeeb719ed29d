"""One loop: hand out work, wait, read reports, replace what died, save, stop.

Every actor has at most one `collect` under way, so its report is its heartbeat. The limiter is
asked before work is handed out; the side that waits does so here, and nothing blocks in a shard.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from common import wire
from common.checkpoint import Checkpoint, write_atomically
from common.config import Config
from common.handles import Future, Handle, RemoteDiedError
from common.types import (
    ActorReport,
    Array,
    EnvironmentFailedError,
    EvaluationReport,
    LearnerReport,
    ShardStatistics,
    UserError,
)
from deploy.control import LOOK_EVERY_S, ControlFile, changed, describe, keys_of
from deploy.metrics import CONTROL, MetricsWriter, RunFolder
from deploy.records import Counters, Records
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
EVALUATION_SLICE_S = 0.5
"""How long an evaluator plays before the loop looks again."""
FINISH_S = 30.0
"""How long a clean stop waits for actors; one that hangs must not hold up the end of the run."""
LEARNING_KEYS = ("reward_clip", "life_loss_ends")
"""Keys of `env` that change neither the game nor what is seen of it: a run may change them."""
CLOSE_S = 5.0
"""How long parts have to free what they hold; then their processes are ended anyway."""
LAST_STATE_S = 30.0
"""How long a run that failed waits for the learner's state: the learner may be what hangs."""
PING_S = 1.0
"""How long a part that nobody waits for has to show that it does not hang."""
NAMED_PARTS = 5
"""How many parts without an answer an error names; it stays one line with hundreds of actors."""


class RunFailedError(Exception):
    """The run cannot go on; the message says why."""


class StalledError(RunFailedError):
    """Nothing was inserted and nothing sampled for too long."""


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
class _Seat:
    """The place of a part that can be replaced: who sits there, and what it is at."""

    title: str
    spawn: Callable[[int], Handle]  # incarnation → handle
    handle: Handle
    incarnation: int
    call: Future[Any] | None = None
    called_s: float = 0.0  # when `call` was made
    failures: int = 0

    @property
    def name(self) -> str:
        return part_name(self.title, self.incarnation)

    def begin(self, method: str, *args: Any) -> None:
        """Give the part its next piece of work."""
        self.called_s = time.monotonic()  # first: inline, the work is done when `call` returns
        self.call = self.handle.call(method, *args)


@dataclass(frozen=True, slots=True)
class _Training:
    """A `train` call under way."""

    steps: int
    call: Future[LearnerReport]
    called_s: float


class Failed:
    """Takes the place of a report that did not come."""


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
        self._records = Records(program.config, started_s)
        self._seats = [
            _Seat(f"actor-{i}", partial(program.spawn_actor, i), handle, program.incarnation)
            for i, handle in enumerate(program.actors)
        ]
        self._idle: deque[_Seat] = deque(self._seats)
        self._training: deque[_Training] = deque()
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
        self._next_evaluation = config.evaluation.every_learner_steps
        self._begun = self._done()
        self._saved: Counters | None = None
        self._checkpoint_tried_s = started_s
        self._checkpoint_tried_steps = 0
        self._state: Future[Array] | None = None  # of the learner, for the next checkpoint
        self._starting: list[Future[Any]] = []  # parts that do not run yet
        self._stall_from_s = started_s
        self._control = ControlFile(folder.path)
        self._looked_s = started_s
        self._statistics: list[Future[ShardStatistics]] = []  # asked for
        self._asked_s = started_s

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. The limiter is the configuration's: an old one never returns.

        Raises:
            UserError: the checkpoint is of another environment or network.
        """
        check_origin(checkpoint, self._config)
        state = checkpoint.state
        self._records.restore(state)
        tensors = checkpoint.tensors["learner"]
        buffer = wire.encode(tensors, state["learner"])
        self._program.learner.call("load_state", buffer).result()
        every = self._config.evaluation.every_learner_steps
        counters = self._records.counters
        self._next_evaluation = (counters.learner_steps // every + 1) * every
        self._begun = self._saved = self._done()
        self._checkpoint_tried_steps = counters.learner_steps

    def request_stop(self, reason: str) -> None:
        """Ask for a clean stop; safe to call from a signal handler."""
        self._stop_requested = self._stop_requested or reason

    def run(self) -> dict[str, Any]:
        """Run to the end.

        Returns:
            The summary: what was done, how fast, the score, why it stopped.

        Raises:
            UserError: a part found a mistake before anything was done.
            RunFailedError: a part that cannot be replaced is gone, training diverged, or the run
                folder cannot be written. What can be saved was saved.
        """
        program = self._program
        parts = [program.variables, *program.shards, program.learner, *program.actors]
        self._starting = [program.runtime.ping(part) for part in parts]
        metrics = MetricsWriter(self._folder.path)
        try:
            reason = self._loop(metrics)
            self._finish(metrics, reason)
            tensors, learner = self._learner_state()
            self._save(tensors, learner)
            summary = self._summary(reason, tensors)
            self._report(metrics)
            self._folder.write_summary(summary)
            self._close_parts()
            return summary
        except DivergedError as error:
            raise RunFailedError(f"{error}; {self._resume_hint()}") from error
        except (
            *(UserError, RunFailedError, RemoteDiedError, EnvironmentFailedError),
            OSError,
        ) as error:
            if self._is_mistake(error):
                raise
            self._save_what_can_be()
            raise RunFailedError(f"{error}; {self._resume_hint()}") from error
        except Exception:  # a fault of ours, inline: its traceback is what is needed
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
            self._look_for_changes(now)
            self._report_if_due(metrics)
            self._stop_if_stalled(now)
            if self._checkpoint_due(now):
                self._begin_checkpoint()

    @property
    def _counters(self) -> Counters:
        return self._records.counters

    def _done(self) -> Counters:
        """What was done so far; time that went by is nothing done."""
        return replace(self._counters, wall_s=0.0)

    def _is_mistake(self, error: Exception) -> bool:
        """Whether the user is to blame: what has worked before was no mistake."""
        return isinstance(error, UserError) and self._done() == self._begun

    @property
    def _evaluating(self) -> bool:
        return self._evaluator is not None and self._evaluator.call is not None

    def _hand_out(self) -> bool:
        """Give work to whoever is idle and may go on; whether anybody got some."""
        config = self._config
        anybody = False
        if self._evaluating and not self._program.runtime.parallel:
            # How long it takes must not decide what is learned meanwhile: to be reproducible, it
            # ends before anything else begins.
            return True
        amount = config.insert_quantum
        # Each idle actor is asked once: inline, a call is over before the next is made.
        for _ in range(len(self._idle)):
            if not self._limiter.can_insert(amount):
                break
            seat = self._idle.popleft()
            self._limiter.begin_insert(amount)
            seat.begin("collect", config.actors.collect_steps, self._counters.env_steps)
            anybody = True
        while len(self._training) < TRAIN_CALLS_IN_FLIGHT:
            steps = min(
                config.learner.train_steps, self._limiter.sampleable(config.learner.batch_size)
            )
            if config.stop.learner_steps is not None:
                under_way = sum(training.steps for training in self._training)
                left = config.stop.learner_steps - self._counters.learner_steps - under_way
                steps = min(steps, left)
            if steps < 1:
                break
            self._limiter.begin_sample(steps * config.learner.batch_size)
            called_s = time.monotonic()
            call = self._program.learner.call("train", steps)
            self._training.append(_Training(steps, call, called_s))
            anybody = True
        if self._counters.learner_steps >= self._next_evaluation and not self._evaluating:
            self._evaluate()
            anybody = True
        return anybody

    def _evaluate(self) -> None:
        if self._evaluator is None:  # its process would slow the start of all others
            incarnation, spawn = self._program.incarnation, self._program.spawn_evaluator
            self._evaluator = _Seat("evaluator", spawn, spawn(incarnation), incarnation)
        self._play_on(self._evaluator)

    @staticmethod
    def _play_on(evaluator: _Seat) -> None:
        """In slices: an evaluation may be long, and the loop has other things to see to."""
        evaluator.begin("evaluate", EVALUATION_SLICE_S)

    def _calls(self) -> list[Future[Any]]:
        calls: list[Future[Any]] = [seat.call for seat in self._seats if seat.call is not None]
        if self._training:
            calls.append(self._training[0].call)
        if self._state is not None:
            calls.append(self._state)
        if self._evaluator is not None and self._evaluator.call is not None:
            calls.append(self._evaluator.call)
        return calls

    def _settle(self, ready: list[Future[Any]], replace: bool = True) -> None:
        done = {id(future) for future in ready}
        for seat in self._seats:
            if seat.call is not None and id(seat.call) in done:
                self._settle_actor(seat, replace)
        while self._training and (
            id(self._training[0].call) in done or self._training[0].call.done()
        ):
            self._settle_learner()
        if self._state is not None and id(self._state) in done:
            self._settle_checkpoint(self._state)
        evaluator = self._evaluator
        if evaluator is not None and evaluator.call is not None and id(evaluator.call) in done:
            self._settle_evaluation(evaluator)

    def _outcome(self, seat: _Seat, replace: bool) -> Any:
        """What the seat's call returned; `Failed`, and a new part on the seat, if it failed."""
        assert seat.call is not None
        call, seat.call = seat.call, None
        try:
            return call.result()
        except Exception as error:  # whatever an environment raises, or the end of its process
            if self._is_mistake(error):
                raise
            if isinstance(error, RemoteDiedError) and error.part != seat.name:
                raise  # this part is well, another one that it talks to is gone
            if replace:
                self._replace(seat, error)
            return Failed()

    def _settle_actor(self, seat: _Seat, replace: bool = True) -> None:
        report: ActorReport | Failed = self._outcome(seat, replace)
        self._idle.append(seat)
        transitions = 0 if isinstance(report, Failed) else report.transitions
        self._limiter.end_insert(self._config.insert_quantum, transitions)
        if isinstance(report, Failed):
            return
        seat.failures = 0
        self._records.actor(report)

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
        self._stall_from_s = time.monotonic()  # the new one has as long as any to begin
        self._view.message(f"{seat.title} was replaced: {cause}")

    def _settle_learner(self) -> None:
        training = self._training.popleft()
        report = training.call.result()
        reserved = training.steps * self._config.learner.batch_size
        self._limiter.end_sample(reserved, report.samples)
        self._records.learner(report)
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
        report: EvaluationReport | Failed | None = self._outcome(seat, replace=True)
        if isinstance(report, Failed):
            return
        if report is None:  # not over yet
            self._play_on(seat)
            return
        seat.failures = 0
        every = self._config.evaluation.every_learner_steps
        self._next_evaluation = max(
            self._next_evaluation + every, self._counters.learner_steps // every * every
        )
        if self._records.evaluation(report):
            self._folder.save_best(report)

    # --- changes and stalls -----------------------------------------------------------------

    def _look_for_changes(self, now: float) -> None:
        """Take over what a command asks for. Nothing that stands in the file ends the run."""
        if now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        try:
            changes = self._control.read()
            if changes is None:
                return
            new = changed(self._config, changes, CONTROL)
            self._view.message(f"changed: {self._go_on_with(new, keys_of(changes))}")
        except (UserError, OSError) as error:
            self._view.message(f"{error}; nothing was changed")
        self._control.remove()

    def _go_on_with(self, new: Config, keys: list[str]) -> str:
        """Go on with another configuration; what is different about it."""
        old, folder = self._config, self._folder
        folder.config = new
        try:
            folder.save_config()  # before anything else: a resume must not fall back
        except OSError:
            folder.config = old
            raise
        self._config = self._program.config = new
        self._limiter.change(new.learner.samples_per_insert, new.ratio_error)
        return describe(old, new, keys)

    def _stop_if_stalled(self, now: float) -> None:
        """Fail if nothing moved for too long.

        Raises:
            StalledError: says who waits for what, and who did not answer.
        """
        limit = self._config.learner.stall_timeout_s
        if limit is None:
            return
        if self._starting:
            running = {id(ping) for ping in self._program.runtime.wait(self._starting, 0.0)}
            self._starting = [ping for ping in self._starting if id(ping) not in running]
        # Processes may take minutes to come up. Once the learner learns, the run as a whole has
        # begun: an actor that never comes up must not hide a stall.
        starting = self._starting and not self._limiter.sampled
        held_up = self._evaluating and not self._program.runtime.parallel
        if starting or held_up:
            self._stall_from_s = now
        if min(now - self._stall_from_s, self._limiter.idle_s) < limit:
            return
        state = self._limiter.explain()  # before the pings take their time
        raise StalledError(
            f"no transition was inserted and no sample drawn for {limit:g} s: {state}; without an "
            f"answer: {', '.join(self._unanswered(now)) or 'nobody'}; if their work takes that "
            f"long, raise learner.stall_timeout_s={limit:g}"
        )

    def _unanswered(self, now: float) -> list[str]:
        """Parts that may be what hangs, and since how many seconds a call is unanswered."""
        program = self._program
        # These are called by other parts only: whether they hang is found out by asking them.
        called_by_others = {"variables": program.variables} | {
            f"shard-{index}": shard for index, shard in enumerate(program.shards)
        }
        pings = {name: program.runtime.ping(part) for name, part in called_by_others.items()}
        silent = self._wait_for(list(pings.values()), PING_S)
        seats = [*self._seats, *([self._evaluator] if self._evaluator else [])]
        called = [(seat.called_s, seat.title) for seat in seats if seat.call is not None]
        if self._training:
            called.append((self._training[0].called_s, "learner"))
        parts = [name for name, ping in pings.items() if ping in silent]
        parts += [f"{title} for {now - called_s:,.0f} s" for called_s, title in sorted(called)]
        more = len(parts) - NAMED_PARTS
        return parts if more <= 0 else [*parts[:NAMED_PARTS], f"{more} more"]

    def _wait_for(self, calls: list[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """Wait for all of them; those that are not done by then."""
        deadline = time.monotonic() + timeout_s
        while calls and time.monotonic() < deadline:
            ready = {id(call) for call in self._program.runtime.wait(calls, WAIT_S)}
            calls = [call for call in calls if id(call) not in ready]
        return calls

    # --- stopping ---------------------------------------------------------------------------

    def _stop_reason(self) -> str | None:
        stop, counters = self._config.stop, self._counters
        if self._stop_requested is not None:
            return self._stop_requested
        if stop.score is not None and self._records.score >= stop.score:
            return "score"
        if stop.learner_steps is not None and counters.learner_steps >= stop.learner_steps:
            return "learner_steps"
        if stop.env_steps is not None and counters.env_steps >= stop.env_steps:
            return "env_steps"
        if stop.wall_s is not None and self._records.wall_s >= stop.wall_s:
            return "wall_s"
        return None

    @property
    def _hurry(self) -> bool:
        """Whether a signal, or the clock, asks for the end."""
        wall_s = self._config.stop.wall_s
        out_of_time = wall_s is not None and self._records.wall_s >= wall_s
        return self._stop_requested is not None or out_of_time

    def _finish(self, metrics: MetricsWriter, reason: str) -> None:
        """Let work under way end, and evaluate the last weights if there is time to."""
        in_time = reason in ("learner_steps", "env_steps")
        self._settle_all(metrics, evaluation=in_time)
        while (
            in_time
            and not self._hurry
            and self._records.evaluated_steps < self._counters.learner_steps
        ):
            self._program.learner.call("publish").result()
            self._evaluate()
            self._settle_all(metrics, evaluation=True)

    def _settle_all(self, metrics: MetricsWriter, evaluation: bool) -> None:
        """Wait for the learner, for actors up to `FINISH_S`, and for the evaluator if asked to.

        An actor that dies now is not replaced. An evaluation is given up on a signal, or when
        `stop.wall_s` is over.
        """
        deadline = time.monotonic() + FINISH_S
        while True:
            calls: list[Future[Any]] = [training.call for training in self._training]
            if time.monotonic() < deadline:
                calls += [seat.call for seat in self._seats if seat.call is not None]
            evaluator = self._evaluator
            if evaluation and not self._hurry and evaluator is not None and evaluator.call:
                calls.append(evaluator.call)
            if not calls:
                break
            self._settle(self._program.runtime.wait(calls, WAIT_S), replace=False)
            self._report_if_due(metrics)
            if self._training:  # actors have their deadline, an evaluation may be long
                self._stop_if_stalled(time.monotonic())
        for seat in self._seats:
            if seat.call is not None:
                self._view.message(f"{seat.title} did not answer within {FINISH_S:g} s")

    def _close_parts(self) -> None:
        """Let environments free what they hold, as far as they do so soon."""
        seats = [*self._seats, *([self._evaluator] if self._evaluator else [])]
        closing = []
        for seat in seats:
            if seat.call is None:
                with suppress(EnvironmentFailedError):  # inline; the run is over all the same
                    closing.append(seat.handle.call("close"))
        self._wait_for(closing, CLOSE_S)

    # --- records ----------------------------------------------------------------------------

    def _checkpoint_due(self, now: float) -> bool:
        checkpoint = self._config.checkpoint
        since = self._counters.learner_steps - self._checkpoint_tried_steps
        if since < 1 or self._state is not None:
            return False
        by_steps = (
            checkpoint.every_learner_steps is not None and since >= checkpoint.every_learner_steps
        )
        by_time = (
            checkpoint.every_s is not None and now - self._checkpoint_tried_s >= checkpoint.every_s
        )
        return by_steps or by_time

    def _learner_state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        buffer: Array = self._program.learner.call("state").result()
        return wire.decode(buffer)

    def _save(self, tensors: dict[str, Array], learner: dict[str, Any]) -> None:
        """Checkpoint the run. Replay contents are not part of it yet."""
        counters, now = self._counters, self._done()
        if now == self._saved:
            return
        counters.wall_s = self._records.wall_s
        # The learner may be a call ahead of what was reported; its own count names the checkpoint.
        steps = int(learner["learner_steps"])
        state = {
            "format": CHECKPOINT_FORMAT,
            "counters": asdict(counters) | {"learner_steps": steps},
            "learner": learner,
            **self._records.state(),
            "config": self._config.model_dump(mode="json"),
        }
        self._folder.checkpoints.save(steps, {"learner": tensors}, state)
        self._saved = now

    def _begin_checkpoint(self) -> None:
        """Ask for the learner's state. The loop goes on until it comes: the learner may be long."""
        self._checkpoint_tried_s = time.monotonic()
        self._checkpoint_tried_steps = self._counters.learner_steps
        self._state = self._program.learner.call("state")
        # Inline it is there already, and must be saved with the counters of this moment.
        self._settle(self._program.runtime.wait([self._state], 0.0))

    def _settle_checkpoint(self, call: Future[Array]) -> None:
        """A checkpoint that cannot be written does not end the run: the one before it is intact."""
        self._state = None
        try:
            self._save(*wire.decode(call.result()))
        except OSError as error:  # tried again when the next one is due
            self._view.message(f"checkpoint could not be written: {error}; going on")

    def _save_what_can_be(self) -> None:
        with suppress(Exception):  # the run has failed already: its reason is what counts
            call = self._program.learner.call("state")
            if self._program.runtime.wait([call], LAST_STATE_S):
                self._save(*wire.decode(call.result()))
            else:
                self._view.message(f"learner did not answer within {LAST_STATE_S:g} s: not saved")

    def _report_if_due(self, metrics: MetricsWriter) -> None:
        now = time.monotonic()
        if now - self._records.reported_s < self._config.report.every_s:
            return
        self._take_statistics(now)
        self._report(metrics)

    def _take_statistics(self, now: float) -> None:
        """Ask all shards now and then what they hold, and pass on what they answered."""
        asked = self._statistics
        if asked and all(answer.done() for answer in asked):
            self._records.replay([answer.result() for answer in asked])
            asked.clear()
        if not asked and now - self._asked_s >= self._config.report.replay_every_s:
            self._asked_s = now
            asked += [shard.call("statistics") for shard in self._program.shards]

    def _report(self, metrics: MetricsWriter) -> None:
        line = self._records.line(self._limiter, self._evaluating)
        metrics.write(line)
        self._view.update(line)

    def _summary(self, reason: str, tensors: dict[str, Array]) -> dict[str, Any]:
        policy = {k: v for k, v in tensors.items() if k.startswith("policy.")}
        return {
            "run": str(self._folder.path),
            **self._records.summary(self._limiter, policy),
            "protocol": self._program.spec.protocol,
            "stop_reason": reason,
        }

    def _resume_hint(self) -> str:
        if self._folder.checkpoints.paths():
            return f"go on from the last checkpoint with: raydqn resume {self._folder.path}"
        return "there is no checkpoint yet"


def check_origin(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint that was made with another game, another view of it, or another network.

    Raises:
        UserError: names the key and both values.
    """
    try:
        saved = checkpoint.state["config"]
        missing = {"counters", "learner", "best_score", "score"} - set(checkpoint.state)
        if checkpoint.state["format"] != CHECKPOINT_FORMAT or missing:
            raise KeyError("format")
        if "learner" not in checkpoint.tensors:
            raise KeyError("learner")
    except KeyError:
        raise UserError(f"{checkpoint.path}: is of another version of raydqn") from None
    mine, defaults = config.model_dump(mode="json"), Config().model_dump(mode="json")
    keys = [(section, key) for section in ("env", "network") for key in mine[section]]
    for section, key in keys:
        wanted = mine[section][key]
        was = saved[section].get(key, defaults[section][key])  # a key that is newer than it
        if was != wanted and key not in LEARNING_KEYS:
            raise UserError(
                f"{section}.{key}={wanted}: the checkpoint {checkpoint.path} was made with {was}, "
                f"it is of another {'environment' if section == 'env' else section}"
            )

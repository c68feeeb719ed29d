"""One loop: hand out work, wait, read reports, replace what died, save, stop.

Every actor has at most one `collect` under way, so its report is its heartbeat. The limiter is
asked before work is handed out; the side that waits does so here, and nothing blocks in a shard.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from common import wire
from common.checkpoint import Checkpoint
from common.config import Config
from common.config_text import with_actors
from common.errors import (
    CheckpointError,
    DivergedError,
    EnvironmentFailedError,
    RemoteDiedError,
    RunFailedError,
    StalledError,
    UnreadableError,
    UnresponsiveError,
    UserError,
)
from common.handles import Future, Handle
from common.parts import CONTROL_SERVICE
from common.storage import write_atomically
from common.types import ActorReport, Array, EvaluationReport, LearnerReport, ShardStatistics
from deploy.control.chaos import CRASH, parse_crash
from deploy.control.file import LOOK_EVERY_S, ControlFile, Reply, changed, describe, keys_of
from deploy.control.service import ControlService
from deploy.reporting.status import PartStatus, part_status, run_status
from deploy.runs.checkpoint_schema import learner_state, shard_restore
from deploy.runs.checkpoint_writer import CheckpointJob, CheckpointWriter
from deploy.runs.folder import CONTROL, RunFolder
from deploy.runs.metrics import MIN_RATE_S, MetricsWriter
from deploy.runs.statistics import Counters, RunStatistics
from deploy.runtime.api import check_count
from deploy.runtime.names import service_name
from deploy.supervisor.actor_autoscaler import Room
from deploy.supervisor.actor_pool import ActorPool
from deploy.supervisor.restore_source import RestoreSource
from deploy.supervisor.slots import STABLE_AFTER_S, HealthMonitor, Slot, cause_of
from replay_server.rate_limiter import RateLimiter
from replay_server.titles import shard_title

if TYPE_CHECKING:  # it imports torch; see deploy.launch.run
    from deploy.program import Program

TRAIN_CALLS_IN_FLIGHT = 2
"""Two, so that the learner never waits for the supervisor to hear of the first."""
VERSIONS_BESIDE = 1_000
"""More than a learner publishes beside its training: when it is made, or told of new variables."""
MAX_RESTARTS_WITHOUT_REPORT = 3
"""A part that dies so often before it did any work has a reason that restarts do not mend."""
RETRY_S = 2.0
"""How long a slot stays empty, at the least, where what its part begins with cannot be read."""
UNREADABLE_S = 300.0
"""A storage that cannot be read for so long ends the run. Its checkpoints stay as they are."""
POLL_S = 0.05
"""How long it sleeps where there is no answer to wait for, only somebody to come."""
WAIT_S = 0.2
"""How long the loop sleeps at the most: signals and wall-clock limits are seen by then."""
EVALUATION_SLICE_S = 0.5
"""How long an evaluator plays before the loop looks again."""
FINISH_S = 30.0
"""How long a clean stop waits for actors; one that hangs must not hold up the end of the run."""
HURRY_S = 5.0
"""The same after a signal: whoever sent it may end the machine soon."""
CLOSE_S = 5.0
"""How long parts have to free what they hold; then their processes are ended anyway."""
STATUS_EVERY_S = 2.0
"""How often it is written down which part lives where, at the most."""
SAVE_S = 60.0
"""How long the last checkpoint may take: the learner, or the storage, may be what hangs."""
SIGNAL_S = 75.0
"""How long after a signal a run may go on at the most: 15 s, and what writing may take."""
STATE_S = 5.0
"""How long a learner has to hand over what is saved already."""
LAST_TRIES = 3
"""Of the last checkpoint, if parts die while it is made."""
LAST_STATE_S = 30.0
"""How long a run that failed waits for that checkpoint."""
PING_S = 1.0
"""How long a part that nobody waits for has to show that it does not hang."""
NAMED_PARTS = 5
"""How many parts without an answer an error names; it stays one line with hundreds of actors."""


class ProgressView(Protocol):
    """Where progress is shown."""

    def update(self, report: dict[str, Any]) -> None:
        """A new report."""
        ...

    def notify(self, text: str, level: int = 20, detail: str = "") -> None:
        """Something worth a line of its own."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


@dataclass(frozen=True, slots=True)
class _Training:
    """A `train` call under way."""

    steps: int
    call: Future[LearnerReport]


class NoReport:
    """Takes the place of a report that did not come."""


class Supervisor:
    """Runs a program until a stop condition, a signal, or a failure."""

    def __init__(
        self, program: Program, folder: RunFolder, view: ProgressView, started_s: float
    ) -> None:
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
        self._records = RunStatistics(program.config, started_s)
        first = program.incarnation
        self._pool = ActorPool(program)
        self._weight_store = Slot(
            "variables", self._new_weight_store, program.weight_store, first, True
        )
        self._shards = [
            Slot(shard_title(i), partial(self._new_shard, i), handle, first, True)
            for i, handle in enumerate(program.shards)
        ]
        self._learner = Slot("learner", self._new_learner, program.learner, first, True)
        self._training: deque[_Training] = deque()
        self._evaluator: Slot | None = None  # made when first needed
        self._sampled_before = 0  # in earlier lives
        # (who found it dead, what it found), in order: whoever lost a part is told who took its
        # place, once, however often it reported the loss.
        self._to_reconnect: dict[tuple[Slot, str], None] = {}
        self._starved = False  # the learner found nothing to draw: every shard is lost
        self._erred_steps = -1  # learner steps when the learner last failed by an error of its own
        config = self._config
        self._limiter = RateLimiter(
            config.learner.samples_per_insert,
            config.learner.warmup_transitions,
            config.ratio_error,
            config.insert_quantum,
            config.learner.batch_size,
        )
        self._stop_requested: str | None = None
        self._stop_asked_s = math.inf
        self._next_evaluation = config.evaluation.every_learner_steps
        self._begun = self._done()
        self._saved: Counters | None = None
        self._checkpoint_writer = CheckpointWriter(
            folder.checkpoints, config.checkpoint, beside=program.runtime.parallel
        )
        supervision = config.supervision
        self._health = HealthMonitor(
            program.runtime,
            supervision.hung_after_s,
            supervision.call_timeout_s,
            supervision.start_timeout_s,
        )
        self._restore_source = RestoreSource(folder.checkpoints, view.notify)
        self._resumed_from = ""  # until another is written
        self._refilled = False  # a shard came back since the memory was looked at
        self._left: list[Future[Any]] = []  # shards that were asked what they hold then
        self._stall_from_s = started_s
        self._control = ControlFile(folder.path)
        # On a cluster others find the run by its board, wherever the driver lives.
        self._board: Slot | None = None
        if program.runtime.autoscaling:
            self._board = Slot(
                str(CONTROL_SERVICE), self._new_board, self._new_board(first), first, True
            )
        self._post: Future[None] | None = None  # under way
        self._wishes: Future[list[tuple[int, dict[str, Any]]]] | None = None  # asked for
        self._answers: dict[int, Reply] = {}
        self._status_s = -math.inf
        self._unwritten = False  # the newest report, or the best weights
        self._looked_s = self._heard_s = started_s
        self._room = Room(program.runtime, config.actors.count)
        self._statistics: list[Future[ShardStatistics]] = []  # asked for
        self._asked_s = started_s

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, of which learner and shards were made already.

        The limiter's ratio and range are the configuration's: old ones never return.

        Raises:
            CheckpointError: what was saved of a shard is damaged.
        """
        state = checkpoint.state
        self._restore_source.any, self._resumed_from = True, checkpoint.name
        self._records.restore(state)
        asked = [shard.handle.call("summary") for shard in self._shards]
        self._limiter.restore(state["limiter"], sum(call.result().size for call in asked))
        counters = self._counters
        self._next_evaluation = self._evaluation_after(counters.learner_steps)
        self._sampled_before = self._limiter.sampled
        self._begun = self._saved = self._done()
        self._checkpoint_writer.tried_steps = counters.learner_steps

    def _evaluation_after(self, steps: int) -> int:
        every = self._config.evaluation.every_learner_steps
        return (steps // every + 1) * every

    def request_stop(self, reason: str) -> None:
        """Ask for a clean stop; safe to call from a signal handler."""
        if self._stop_requested is None:
            self._stop_requested, self._stop_asked_s = reason, time.monotonic()

    def run(self) -> dict[str, Any]:
        """Run to the end.

        Returns:
            The summary: what was done, how fast, the score, why it stopped.

        Raises:
            UserError: a part found a mistake before anything was done.
            RunFailedError: a part that cannot be replaced is gone, training diverged, or the run
                folder cannot be written. What can be saved was saved.
        """
        metrics = MetricsWriter(self._folder.path)
        try:
            reason = self._loop(metrics)
            self._finish(metrics, reason)
            self._report(metrics)  # first: whether the disk is full or not, this was done
            summary = self._summary(reason, self._save_at_the_end())
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
        runtime = self._program.runtime
        while True:
            reason = self._stop_reason()
            if reason is not None:
                return reason
            handed_out = self._hand_out()
            calls = self._calls()
            coming = runtime.autoscaling and not all(slot.up for slot in self._pool.slots)
            waiting = (
                coming or self._to_reconnect or any(slot.awaiting_restore for slot in self._fixed)
            )
            if not calls and not handed_out and not waiting:
                raise RunFailedError(f"nobody can go on: {self._limiter.explain()}")
            if not calls and not handed_out:  # for somebody who is not there yet
                time.sleep(POLL_S)
            self._settle(runtime.wait(calls, WAIT_S))
            now = time.monotonic()
            self._tend(now, self._players)
            self._see_who_is_late(now)
            self._use_the_room(now)
            self._look_for_changes(now)
            self._hear_the_board(now)
            self._report_if_due(metrics)
            self._stop_if_stalled(now)
            self._see_to_checkpoints(now)

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
    def _fixed(self) -> list[Slot]:
        """Everybody who is there once, or once per shard."""
        board = [self._board] if self._board is not None else []
        return [self._weight_store, *self._shards, self._learner, *board]

    @property
    def _players(self) -> list[Slot]:
        """Everybody who has environments."""
        return [*self._pool.slots, *([self._evaluator] if self._evaluator else [])]

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
        for _ in range(len(self._pool.idle)):
            if not self._limiter.can_insert(amount):
                break
            slot = self._pool.idle.popleft()
            if self._program.runtime.autoscaling and not slot.up:
                self._pool.idle.append(slot)  # it waits for a machine; what it would do is not due
                continue
            self._limiter.begin_insert(amount)
            slot.begin("collect", config.actors.collect_steps, self._counters.env_steps)
            anybody = True
        learner = self._learner
        # One shard that is lost holds nobody up: the learner draws from the others.
        held_up = learner.awaiting_restore or (
            self._starved and any(slot is learner for slot, _ in self._to_reconnect)
        )
        while len(self._training) < TRAIN_CALLS_IN_FLIGHT and not held_up:
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
            if not self._training:
                learner.called_s = time.monotonic()
            self._training.append(_Training(steps, learner.handle.call("train", steps)))
            learner.call = self._training[0].call
            anybody = True
        if self._counters.learner_steps >= self._next_evaluation and not self._evaluating:
            self._evaluate()
            anybody = True
        return anybody

    def _evaluate(self) -> None:
        if self._evaluator is None:  # its process would slow the start of all others
            incarnation, spawn = self._program.incarnation, self._program.spawn_evaluator
            self._evaluator = Slot("evaluator", spawn, spawn(incarnation), incarnation)
        self._play_on(self._evaluator)

    @staticmethod
    def _play_on(evaluator: Slot) -> None:
        """In slices: an evaluation may be long, and the loop has other things to see to."""
        evaluator.begin("evaluate", EVALUATION_SLICE_S)

    def _calls(self) -> list[Future[Any]]:
        actors = self._pool.all
        calls: list[Future[Any]] = [slot.call for slot in actors if slot.call is not None]
        if self._program.runtime.autoscaling:  # who comes up gets work at once
            calls += [slot.ping for slot in actors if slot.ping is not None and not slot.up]
        if self._training:
            calls.append(self._training[0].call)
        if self._evaluator is not None and self._evaluator.call is not None:
            calls.append(self._evaluator.call)
        return calls

    def _settle(self, ready: list[Future[Any]], replace: bool = True) -> None:
        done = {id(future) for future in ready}
        for slot in self._pool.slots:
            if slot.call is not None and id(slot.call) in done:
                self._settle_actor(slot, replace)
        for slot in [*self._pool.leaving, *self._pool.closing]:
            if slot.call is not None and id(slot.call) in done:
                self._settle_leaving(slot)
        while self._training and (
            id(self._training[0].call) in done or self._training[0].call.done()
        ):
            self._settle_learner()
        evaluator = self._evaluator
        if evaluator is not None and evaluator.call is not None and id(evaluator.call) in done:
            self._settle_evaluation(evaluator)

    def _outcome(self, slot: Slot, replace: bool) -> Any:
        """What the slot's call returned; `NoReport`, and a new part on the slot, if it failed."""
        assert slot.call is not None
        call, slot.call = slot.call, None
        try:
            return call.result()
        except Exception as error:  # whatever an environment raises, or the end of its process
            if self._is_mistake(error):
                raise
            of_another = isinstance(error, RemoteDiedError) and error.part != slot.name
            # A shard that could not be made says why to all who call it.
            of_another |= isinstance(error, CheckpointError)
            if replace and not of_another:
                self._replace(slot, error)
            return NoReport()

    def _settle_actor(self, slot: Slot, replace: bool = True) -> None:
        report: ActorReport | NoReport = self._outcome(slot, replace)
        self._pool.idle.append(slot)
        self._take_report(slot, report)

    def _take_report(self, slot: Slot, report: ActorReport | NoReport) -> None:
        transitions = 0 if isinstance(report, NoReport) else report.transitions
        self._limiter.end_insert(self._config.insert_quantum, transitions)
        if isinstance(report, NoReport):
            return
        now = time.monotonic()
        if not slot.up:
            slot.up, slot.up_s = True, now
        slot.failures = 0
        since_s = slot.called_s if math.isnan(slot.reported_s) else slot.reported_s
        slot.rate = report.env_steps / max(now - since_s, MIN_RATE_S)
        slot.reported_s = now
        self._records.actor(report)
        self._note_lost(slot, report.unreachable)

    # --- more actors, or fewer ---------------------------------------------------------------

    def _resize(self) -> None:
        """Go on with as many actors as the configuration says now."""
        pool, count = self._pool, self._config.actors.count
        self._room.scattered = count < len(pool.slots)
        pool.grow(count)
        idle = pool.shrink(count)
        pool.set_actor_count()
        self._records.resize(self._config)
        for slot in idle:
            if slot.up or not self._program.runtime.autoscaling:
                self._close(slot)
            else:  # it never came up
                self._program.runtime.kill(slot.handle)

    def _close(self, slot: Slot) -> None:
        """Have an actor that was given up hand in what it has."""
        self._pool.closing.append(slot)
        slot.begin("close")
        if not self._program.runtime.parallel:
            self._settle_leaving(slot)

    def _settle_leaving(self, slot: Slot) -> None:
        """Of an actor that was given up: its last report, or what it handed in."""
        pool, outcome = self._pool, self._outcome(slot, replace=False)
        hands_in = slot in pool.closing
        pool.forget(slot)
        if not hands_in:
            self._take_report(slot, outcome)
            if not isinstance(outcome, NoReport):
                self._close(slot)
                return
        elif not isinstance(outcome, NoReport):
            self._limiter.end_insert(0, outcome)
            self._counters.transitions += outcome
        self._program.runtime.kill(slot.handle)

    def _see_who_is_late(self, now: float) -> None:
        """Who was to leave and does not answer goes all the same."""
        pool = self._pool
        for slot in [*pool.leaving, *pool.closing]:
            # Its work may have been long under way when it was to leave.
            if now - max(slot.called_s, slot.leaving_s) > FINISH_S:
                if slot in pool.leaving:
                    self._limiter.end_insert(self._config.insert_quantum, 0)
                pool.forget(slot)
                self._program.runtime.kill(slot.handle)

    def _use_the_room(self, now: float) -> None:
        """On a cluster: as many actors as there is room for, if so wished; together, if fewer."""
        pool, runtime = self._pool, self._program.runtime
        if not runtime.autoscaling:
            return
        auto = not self._folder.config.actors.count
        if auto:
            players = [*self._players, *pool.leaving, *pool.closing]
            count, before = self._room.count(now, pool, players), len(pool.slots)
            if count is not None and count != before:
                self._take_over(with_actors(self._config, count))
                self._view.notify(f"actors.count: {before} → {count}, as many as there is room for")
        else:
            self._room.forget()
        slot = self._room.mover(now, pool, self._players, once=auto)
        if slot is not None:
            self._view.notify(f"{slot.title} moves: a node gets empty")
            if pool.move(slot):
                self._close(slot)

    # --- parts that die or hang --------------------------------------------------------------

    def _tend(self, now: float, players: list[Slot]) -> None:
        """Replace parts that died or hang, and tell those who lost them.

        Args:
            now: `time.monotonic()`.
            players: those with environments who are worth it.
        """
        for slot in self._fixed:
            if slot.awaiting_restore and now - slot.tried_s >= RETRY_S:
                self._fill(slot)
        for slot, error in self._health.look([*self._fixed, *players], now):
            if self._is_mistake(error) and not slot.up:
                raise error  # a part that could not even be made
            if isinstance(error, UnreadableError):
                self._program.runtime.kill(slot.handle)
                self._await_restore(slot, error)
                continue
            if isinstance(error, CheckpointError):
                self._restore_source.distrust(slot, error)
                slot.failures -= 1  # there are only so many checkpoints
            self._replace(slot, error)
            if slot.call is None and slot in self._pool.slots and slot not in self._pool.idle:
                self._limiter.end_insert(self._config.insert_quantum, 0)
                self._pool.idle.append(slot)
        by_title = {slot.title: slot for slot in chain([self._weight_store], self._shards)}
        for slot, title in list(self._to_reconnect):
            # Not before it is up: one that could not be made fails whoever calls it.
            if by_title[title].up and not by_title[title].suspect:
                slot.handle.call("reconnect", title, by_title[title].handle)
                del self._to_reconnect[slot, title]
                self._starved &= slot is not self._learner
        self._see_what_is_left()

    def _note_lost(self, slot: Slot, titles: list[str]) -> None:
        """Somebody found parts dead: a ping will tell, and it is told who took their place."""
        for title in titles:
            for other in chain([self._weight_store], self._shards):
                if other.title == title:
                    other.suspect = True
                    self._to_reconnect[slot, title] = None

    def _new_board(self, incarnation: int) -> Handle:
        run = self._folder.path.name
        name = service_name(run, incarnation)
        self._post = self._wishes = None
        # What was counted before, by another board or in another life, is counted.
        return self._program.runtime.spawn(
            ControlService,
            run,
            incarnation > 0,
            part=CONTROL_SERVICE,
            incarnation=incarnation,
            public_name=name,
        )

    def _new_weight_store(self, incarnation: int) -> Handle:
        program = self._program
        # Above whatever was published unheard of: actors never take an older one.
        learner = self._config.learner
        in_training = TRAIN_CALLS_IN_FLIGHT * math.ceil(learner.train_steps / learner.publish_steps)
        floor = self._records.version + in_training + VERSIONS_BESIDE
        program.weight_store = program.spawn_weight_store(floor, incarnation)
        # Actors find out by themselves; the learner only when it publishes next, and an evaluator
        # would go on with the weights it has.
        self._to_reconnect[self._learner, "variables"] = None
        if self._evaluator is not None:
            self._to_reconnect[self._evaluator, "variables"] = None
        return program.weight_store

    def _new_shard(self, index: int, incarnation: int) -> Handle:
        """A shard with what the newest checkpoint holds of its part.

        Raises:
            UnreadableError: there is no telling now what that is.
        """
        program, slot = self._program, self._shards[index]
        count = len(program.shards)
        while True:
            checkpoint = self._restore_source.newest(slot)
            if checkpoint is None and self._restore_source.any:
                self._view.notify(f"{slot.title} begins empty: no checkpoint of it is sound")
            origin = shard_restore(checkpoint, index, count) if checkpoint else None
            try:
                program.shards[index] = program.spawn_shard(index, origin, incarnation)
            except UnreadableError:
                raise
            except CheckpointError as error:  # inline; on Ray a ping tells
                self._restore_source.distrust(slot, error)
                continue
            self._refilled = True
            self._left.clear()
            return program.shards[index]

    def _see_what_is_left(self) -> None:
        """Shards that were replaced may hold less: if all do too little, the memory fills first."""
        if not self._refilled or not all(slot.up for slot in self._shards):
            return
        if not self._left:
            self._left = [slot.handle.call("summary") for slot in self._shards]
        if not all(answer.done() for answer in self._left):
            return  # one is busy
        asked, self._left = self._left, []
        try:
            held = sum(answer.result().size for answer in asked)
        except RemoteDiedError:
            return  # gone again: asked anew when another has taken its place
        self._refilled = False
        if held < self._limiter.min_size:
            self._limiter.reset(held)

    def _give_up_training(self) -> None:
        """The learner is gone, and with it the results of what is under way."""
        for training in self._training:
            self._limiter.end_sample(training.steps * self._config.learner.batch_size, 0)
        self._training.clear()
        for wish in [wish for wish in self._to_reconnect if wish[0] is self._learner]:
            del self._to_reconnect[wish]
        self._starved = False

    def _new_learner(self, incarnation: int) -> Handle:
        """A learner as it was at the newest checkpoint.

        Raises:
            UnreadableError: there is no telling now what that is.
            RunFailedError: no checkpoint is sound. To begin anew would be to lose them all: each
                new checkpoint takes the place of an old one.
        """
        program, checkpoint = self._program, self._restore_source.newest(self._learner)
        if checkpoint is None and self._restore_source.any:
            raise RunFailedError("learner cannot be replaced: no checkpoint of it is sound")
        self._give_up_training()
        state = learner_state(checkpoint) if checkpoint else None
        program.learner = program.spawn_learner(state, incarnation)
        steps = parse_state(checkpoint).learner.learner_steps if checkpoint else 0
        self._counters.learner_steps = steps
        self._next_evaluation = self._evaluation_after(steps)
        self._checkpoint_writer.tried_steps = steps
        return program.learner

    def _replace(self, slot: Slot, error: Exception) -> None:
        """A new part on the slot of one that failed: same index, same ε, fresh streams."""
        now = time.monotonic()
        # Actors and evaluators show by their reports that they work.
        lived = slot.always and slot.up and now - slot.up_s >= STABLE_AFTER_S
        if slot is self._learner and not isinstance(error, (RemoteDiedError, UnresponsiveError)):
            lived = self._counters.learner_steps > self._erred_steps
            self._erred_steps = max(self._erred_steps, self._counters.learner_steps)
        of_machine = isinstance(error, RemoteDiedError) and error.machine
        slot.failures = 1 if lived else slot.failures + (not of_machine)
        cause = cause_of(error)
        if slot.failures > MAX_RESTARTS_WITHOUT_REPORT:
            raise RunFailedError(
                f"{slot.title} failed {slot.failures} times in a row: {cause}"
            ) from error
        self._program.runtime.kill(slot.handle)
        if slot is self._learner:
            self._give_up_training()
        slot.cause = cause
        self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        """Put a part on a slot where nobody sits, if what it begins with can be read."""
        try:
            slot.renew(slot.incarnation + 1)
        except UnreadableError as error:
            self._await_restore(slot, error)
            return
        self._counters.restarts += 1
        slot.restarts += 1
        self._stall_from_s = time.monotonic()  # the new one has as long as any to begin
        self._view.notify(f"{slot.title} was replaced: {slot.cause}")

    def _await_restore(self, slot: Slot, error: UnreadableError) -> None:
        """Nobody takes the slot for now: it is tried again when the storage may answer.

        Raises:
            RunFailedError: it did not for too long.
        """
        now = time.monotonic()
        slot.clear()
        slot.awaiting_restore, slot.tried_s = True, now
        if math.isnan(slot.unread_s):
            slot.unread_s = now
            self._view.notify(
                f"{slot.title} cannot be replaced yet: {error}; tried again for {UNREADABLE_S:g} s"
            )
        if now - slot.unread_s > UNREADABLE_S:
            raise RunFailedError(f"{slot.title} cannot be replaced: {error}") from error

    def _settle_learner(self) -> None:
        training, learner = self._training[0], self._learner
        try:
            report = training.call.result()
        except Exception as error:  # the end of its process, or whatever its device raises
            if self._is_mistake(error):
                raise
            of_another = isinstance(error, RemoteDiedError) and error.part != learner.name
            if not of_another and not isinstance(error, CheckpointError):
                self._replace(learner, error)  # which clears what is under way
                return
            report = None
        self._training.popleft()
        learner.call = self._training[0].call if self._training else None
        # It could not begin before the one before it was over.
        learner.called_s = time.monotonic()
        reserved = training.steps * self._config.learner.batch_size
        self._limiter.end_sample(reserved, report.samples if report else 0)
        if report is None:
            return
        self._note_work(report)
        self._records.learner(report)
        self._note_lost(learner, report.unreachable)
        if report.steps < training.steps and not report.diverged:
            if report.unreachable:
                self._starved = True
            else:
                self._limiter.reset(0)  # shards came back empty
        if report.diverged:
            self._fail_diverged(report)

    def _note_work(self, report: LearnerReport) -> None:
        """Whoever had a part in it has worked: a life that did is no failure, however short."""
        # What fails again at the same step did not get on by getting there once more.
        if report.learner_steps > self._erred_steps:
            self._learner.failures = 0
        if report.version > self._records.version and "variables" not in report.unreachable:
            self._weight_store.failures = 0
        for summary in report.replay:
            slot = self._shards[summary.shard]
            if summary.incarnation != slot.incarnation:
                continue
            done = summary.inserted + summary.sampled
            if slot.progress_baseline is None:
                slot.progress_baseline = done
            elif done > slot.progress_baseline:
                slot.failures = 0

    def _fail_diverged(self, report: LearnerReport) -> None:
        path = self._folder.path / "diverged-batch.rdqn"
        assert report.batch is not None
        write_atomically(path, report.batch.tobytes())
        raise DivergedError(
            f"loss or gradient is not finite after {report.learner_steps} learner steps; the batch "
            f"is in {path}; it was not trained on. Lower learner.learning_rate, or look at the "
            "rewards"
        )

    def _settle_evaluation(self, slot: Slot) -> None:
        report: EvaluationReport | NoReport | None = self._outcome(slot, replace=True)
        if isinstance(report, NoReport):
            return
        if report is None:  # not over yet
            self._play_on(slot)
            return
        if report.weights is None:
            return  # nothing was published, as whoever held it had died: it is begun anew
        slot.failures = 0
        every = self._config.evaluation.every_learner_steps
        self._next_evaluation = max(
            self._next_evaluation + every, self._counters.learner_steps // every * every
        )
        if self._records.evaluation(report):
            self._record(partial(self._folder.save_best, report))

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
            if CRASH in changes:
                self._control.remove()
                self._crash(changes[CRASH])
                return
            self._control.reply(self._take_wish(changes))
        except (UserError, OSError) as error:
            self._view.notify(f"{error}; nothing was changed")
        self._control.remove()

    def _take_wish(self, changes: dict[str, Any]) -> Reply:
        """Apply the requested changes; the reply."""
        try:
            new = changed(self._folder.config, changes, CONTROL)
            outcome = Reply(True, self._go_on_with(new, keys_of(changes)))
        except (UserError, OSError) as error:
            outcome = Reply(False, f"{error}; nothing was changed")
        self._view.notify(str(outcome))
        return outcome

    def _crash(self, wish: Any) -> None:
        """Have a part die; see `raydqn chaos`.

        Raises:
            UserError: no such part.
        """
        kind, number = parse_crash(wish)
        found = [slot for slot in [*self._fixed, *self._players] if slot.title.startswith(kind)]
        if found:
            slot = found[number % len(found)]
            if slot.failures or not slot.up:  # dying faster than it starts, none would ever work
                self._view.notify(f"chaos: {slot.title} has not worked since it came: spared")
                return
            self._view.notify(f"chaos: {slot.title} dies")
            self._program.runtime.crash(slot.handle)

    def _go_on_with(self, new: Config, keys: list[str]) -> str:
        """Go on with another configuration; what is different about it."""
        folder = self._folder
        old, runtime = folder.config, self._program.runtime
        check_count(new.actors.count, runtime)
        folder.config = new
        try:
            folder.save_config()  # before anything else: a resume must not fall back
        except OSError:
            folder.config = old
            raise
        count = new.actors.count
        if not count:  # on a cluster it is looked at, and asked of Ray, from now on
            count = (
                len(self._pool.slots) if runtime.autoscaling else runtime.capacity([], 0).result()
            )
        self._take_over(with_actors(new, count))
        return describe(old, new, keys)

    def _take_over(self, new: Config) -> None:
        """Go on with another configuration, of which nothing is left open."""
        old = self._config
        self._config = self._program.config = new
        self._limiter.change(new.learner.samples_per_insert, new.ratio_error)
        self._checkpoint_writer.change(new.checkpoint)
        if new.actors.count != old.actors.count:
            self._resize()

    def _stop_if_stalled(self, now: float) -> None:
        """Fail if nothing moved for too long.

        Raises:
            StalledError: says who waits for what, and who did not answer.
        """
        limit = self._config.learner.stall_timeout_s
        if limit is None:
            return
        # Processes may take minutes to come up. Once the learner learns, the run as a whole has
        # begun: an actor that never comes up must not hide a stall.
        parts = [*self._fixed, *self._pool.slots]
        learning = self._limiter.sampled > self._sampled_before
        starting = not learning and not all(slot.up for slot in parts)
        held_up = self._evaluating and not self._program.runtime.parallel
        vacant = any(
            slot.awaiting_restore for slot in parts
        )  # for which there is a limit of its own
        if starting or held_up or vacant:
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
        # These are called by other parts only: whether they hang is found out by asking them.
        runtime = self._program.runtime
        pings = {
            slot.title: runtime.ping(slot.handle) for slot in [self._weight_store, *self._shards]
        }
        silent = self._wait_for(list(pings.values()), PING_S)
        slots = [*self._players, self._learner]
        called = [(slot.called_s, slot.title) for slot in slots if slot.call is not None]
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
        # Whoever is needed for it may die now; that it is tried again has a bound.
        for _ in range(1 + MAX_RESTARTS_WITHOUT_REPORT):
            evaluated = self._records.evaluated_steps >= self._counters.learner_steps
            if not in_time or self._hurry or evaluated or not self._published():
                return
            self._evaluate()
            self._settle_all(metrics, evaluation=True)

    def _published(self) -> bool:
        """Have the learner publish what it has; whether it did, to variables that live."""
        deadline = time.monotonic() + SAVE_S
        variables, learner = self._weight_store, self._learner
        variables.suspect = True  # only the learner would find out, and its report is in
        asked: tuple[Handle, Future[Any]] | None = None
        while time.monotonic() < deadline and not self._hurry:
            self._tend(time.monotonic(), [])
            unheard = any(title == variables.title for _, title in self._to_reconnect)
            if not variables.up or variables.suspect or learner.awaiting_restore or unheard:
                asked = None
                time.sleep(POLL_S)
                continue
            if asked is None or asked[0] is not learner.handle:
                asked = learner.handle, learner.handle.call("publish")
            if self._wait_for([asked[1]], WAIT_S):
                continue
            try:
                asked[1].result()
            except RemoteDiedError:
                learner.suspect, asked = True, None
            else:
                return True
        return False

    def _settle_all(self, metrics: MetricsWriter, evaluation: bool) -> None:
        """Wait for the learner, for actors up to `FINISH_S`, and for the evaluator if asked to.

        An actor that dies now is not replaced; whoever dies or hangs on whom the learner or the
        evaluation depends is. An evaluation is given up on a signal, or when `stop.wall_s` is over.
        """
        begin = time.monotonic()
        while True:
            deadline = begin + (HURRY_S if self._stop_requested is not None else FINISH_S)
            calls: list[Future[Any]] = [training.call for training in self._training]
            if time.monotonic() < deadline:
                calls += [slot.call for slot in self._pool.all if slot.call is not None]
            evaluator = self._evaluator
            needed: list[Slot] = []
            if evaluation and not self._hurry and evaluator is not None and evaluator.call:
                calls.append(evaluator.call)
                needed.append(evaluator)
            if not calls:
                break
            self._settle(self._program.runtime.wait(calls, WAIT_S), replace=False)
            if self._training or needed:
                self._tend(time.monotonic(), needed)
            self._report_if_due(metrics)
            if self._stop_requested is not None and time.monotonic() > deadline:
                break  # the learner too: its last checkpoint must do
            if self._training:  # actors have their deadline, an evaluation may be long
                self._stop_if_stalled(time.monotonic())
        for slot in self._pool.slots:
            if slot.call is not None:
                limit = HURRY_S if self._stop_requested is not None else FINISH_S
                self._view.notify(f"{slot.title} did not answer within {limit:g} s")

    def _close_parts(self) -> None:
        """Let environments free what they hold, as far as they do so soon."""
        closing = []
        for slot in self._players:
            if slot.call is None:
                with suppress(EnvironmentFailedError):  # inline; the run is over all the same
                    closing.append(slot.handle.call("close"))
        self._wait_for(closing, CLOSE_S)

    # --- records ----------------------------------------------------------------------------

    def _see_to_checkpoints(self, now: float) -> None:
        self._take_checkpoint()
        inline = not self._program.runtime.parallel
        # What an evaluation has played so far could not be saved: it ends first. Who died is
        # replaced first.
        if inline and (self._evaluating or not self._all_alive()):
            return
        if not inline and not all(slot.up for slot in [*self._shards, self._learner]):
            return  # nothing can be asked of it yet
        counters = self._counters
        if self._checkpoint_writer.due(now, counters.learner_steps, counters.transitions):
            self._begin_checkpoint()
            if inline:
                self._take_checkpoint()
                self._new_attempt()

    def _all_alive(self) -> bool:
        ping = self._program.runtime.ping
        try:
            for slot in [*self._fixed, *self._pool.slots]:
                ping(slot.handle).result()
        except RemoteDiedError:
            return False
        return True

    def _take_checkpoint(self, timeout_s: float = 0.0) -> bool:
        """See how the one under way ended, if it did; whether none is under way any more."""
        if self._checkpoint_writer.busy:
            saving = self._checkpoint_writer.take(timeout_s)
            if saving is None:
                return False
            self._settle_checkpoint(saving)
        return True

    def _begin_checkpoint(self) -> None:
        """Inline it is written when this returns; on Ray the run goes on meanwhile."""
        if not self._program.runtime.parallel:
            self._end_episodes()
        counters = self._counters
        counters.wall_s = self._records.wall_s
        state = {
            "counters": asdict(counters),
            **self._records.state(),
            "limiter": self._limiter.state(),
            "incarnation": self._incarnation + 1,
            "config": self._config.model_dump(mode="json"),
        }
        shards = [shard.handle for shard in self._shards] if self._config.checkpoint.replay else []
        saving = CheckpointJob(state, self._learner.handle, shards, mark=self._done())
        self._checkpoint_writer.begin(saving, counters.learner_steps)

    def _settle_checkpoint(self, saving: CheckpointJob) -> None:
        """A checkpoint that cannot be written does not end the run: the one before it is intact.

        Raises:
            RunFailedError: it does, `checkpoint.on_failure` says so.
        """
        error = saving.error
        if error is None:
            self._note_saved(saving)
            self._records.checkpoint(saving.wall_s)
            if saving.remark is not None:
                self._view.notify(saving.remark)
            return
        # CheckpointError: of a shard that could not be made from what another one holds.
        if not isinstance(error, (OSError, RemoteDiedError, CheckpointError)):
            raise error
        # It is tried again when the next one is due.
        message = f"checkpoint could not be written: {error}"
        if isinstance(error, OSError) and self._config.checkpoint.on_failure == "stop":
            raise RunFailedError(message) from error
        self._view.notify(f"{message}; going on")

    def _note_saved(self, saving: CheckpointJob) -> None:
        self._saved = saving.mark
        self._restore_source.any, self._resumed_from = True, ""

    @property
    def _incarnation(self) -> int:
        """The greatest of all parts."""
        return max(self._pool.incarnation, *(slot.incarnation for slot in self._fixed))

    def _end_episodes(self) -> None:
        """Inline: have every actor hand in what it has; environments cannot be saved."""
        for slot in self._pool.slots:
            try:
                stored = slot.handle.call("close").result()
            except (RemoteDiedError, EnvironmentFailedError):
                continue  # it is replaced in any case
            self._limiter.end_insert(0, stored)
            self._counters.transitions += stored

    def _new_attempt(self) -> None:
        """Inline: go on exactly as a run would that is resumed from the checkpoint just made.

        So a run that was killed and resumed is, bit for bit, one that was not.
        """
        incarnation = self._incarnation + 1
        self._program.incarnation = incarnation
        held = 0
        for shard in self._shards:
            shard.handle.call("new_attempt", incarnation).result()
            shard.incarnation = incarnation
            held += shard.handle.call("summary").result().size
        self._limiter.restore(self._limiter.state(), held)
        self._learner.handle.call("new_attempt", incarnation).result()
        self._learner.incarnation = incarnation
        self._pool.new_attempt(incarnation)
        if self._evaluator is not None:
            with suppress(EnvironmentFailedError):
                self._evaluator.handle.call("close")
            self._evaluator = None
        self._next_evaluation = self._evaluation_after(self._counters.learner_steps)

    def _save_at_the_end(self) -> dict[str, Array]:
        """The last checkpoint, if anything was done since the one before; the learner's tensors."""
        checkpointer, tries = self._checkpoint_writer, 0
        deadline = time.monotonic() + self._left_of(SAVE_S)
        if self._stop_requested is not None:  # whoever sent the signal waits: once, not each time
            checkpointer.end_by(deadline)
        written = self._take_checkpoint(self._left_of(SAVE_S))
        while written and self._saved != self._done():
            self._begin_checkpoint()
            saving, tries = checkpointer.take(self._left_of(SAVE_S)), tries + 1
            if saving is not None and saving.error is not None:
                gone = isinstance(saving.error, (RemoteDiedError, CheckpointError))
                if gone and tries < LAST_TRIES:
                    self._wait_until_all_sit()
                    continue
                raise saving.error
            if saving is not None and saving.tensors is not None:
                self._note_saved(saving)
                return saving.tensors
            written = False
        if not written:
            raise RunFailedError(f"the last checkpoint was not written within {SAVE_S:g} s")
        return self._saved_tensors()

    def _wait_until_all_sit(self) -> None:
        """Replace those who died at the very end: whoever is to be saved must be there."""
        deadline = time.monotonic() + self._left_of(SAVE_S)
        wanted = [*self._shards, self._learner]
        for slot in wanted:
            slot.suspect = True
        time.sleep(POLL_S)
        while time.monotonic() < deadline:
            self._tend(time.monotonic(), [])
            if all(slot.up and not slot.suspect for slot in wanted):
                return
            time.sleep(POLL_S)

    def _saved_tensors(self) -> dict[str, Array]:
        """The learner's tensors, which are saved already."""
        call = self._learner.handle.call("state")
        if not self._wait_for([call], self._left_of(STATE_S)):
            with suppress(RemoteDiedError):
                return wire.decode(call.result())[0]
        store = self._checkpoint_writer.store
        return store.load(self._resumed_from or store.names()[-1]).tensors["learner"]

    def _left_of(self, limit_s: float) -> float:
        """How much of that time there is: after a signal, all of it together has a limit."""
        return max(0.0, min(limit_s, self._stop_asked_s + SIGNAL_S - time.monotonic()))

    def _save_what_can_be(self) -> None:
        with suppress(Exception):  # the run has failed already: its reason is what counts
            limit_s = self._left_of(LAST_STATE_S)
            if self._checkpoint_writer.take(limit_s) is None and self._checkpoint_writer.busy:
                self._view.notify(f"no answer within {LAST_STATE_S:g} s: not saved")
                return
            if self._saved == self._done():
                return
            self._begin_checkpoint()
            saving = self._checkpoint_writer.take(self._left_of(LAST_STATE_S))
            if saving is None:
                self._view.notify(f"learner did not answer within {LAST_STATE_S:g} s: not saved")
            elif saving.error is not None:
                self._view.notify(f"not saved: {saving.error}")

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
            with suppress(RemoteDiedError):  # asked again, of the one that takes its place
                self._records.replay([answer.result() for answer in asked])
            asked.clear()
        due = now - self._asked_s >= self._config.report.replay_every_s
        # One that could not be made would answer with the reason, which is the watch's to take.
        if not asked and due and all(slot.up for slot in self._shards):
            self._asked_s = now
            asked += [shard.call("statistics") for shard in self._program.shards]

    def _report(self, metrics: MetricsWriter) -> None:
        inline = not self._program.runtime.parallel  # there, who was made is up
        up = sum(slot.up or inline for slot in self._pool.slots)
        line = self._records.line(self._limiter, self._evaluating, up)
        self._record(partial(metrics.write, line))
        self._view.update(line)
        now = time.monotonic()
        if now - self._status_s >= STATUS_EVERY_S:
            self._status_s = now
            status = run_status(self._folder.path.name, line, self._part_statuses(now))
            self._folder.write_status(status)
            board = self._board
            if board is not None and board.up and (self._post is None or self._post.done()):
                self._post = board.handle.call("publish", line, status)

    def _record(self, write: Callable[[], None]) -> None:
        """Write what the run can do without: if that fails it says so, once, and goes on."""
        try:
            write()
        except OSError as error:
            if not self._unwritten:
                self._view.notify(f"{self._folder.path}: cannot be written: {error}; going on")
            self._unwritten = True
        else:
            self._unwritten = False

    def _hear_the_board(self, now: float) -> None:
        """Take the wishes that others left there, and hand in what became of those before."""
        board = self._board
        if board is None:
            return
        if self._wishes is not None and self._wishes.done():
            asked, self._wishes = self._wishes, None
            try:
                for number, wish in asked.result():
                    self._answers[number] = self._take_wish(wish)
            except RemoteDiedError:
                board.suspect = True
        due = self._answers or now - self._heard_s >= LOOK_EVERY_S
        if due and board.up and self._wishes is None:
            self._heard_s = now
            answers, self._answers = self._answers, {}
            self._wishes = board.handle.call("poll", answers)

    def _part_statuses(self, now: float) -> Iterator[PartStatus]:
        for slot in self._fixed:
            if slot is self._learner:
                rate = self._records.learner_steps_per_s(now)
                yield part_status(slot, now, rate, "learner steps/s")
            else:
                yield part_status(slot, now)
        for slot in self._players:
            yield part_status(slot, now, slot.rate, "env steps/s")

    def _summary(self, reason: str, tensors: dict[str, Array]) -> dict[str, Any]:
        policy = {k: v for k, v in tensors.items() if k.startswith("policy.")}
        return {
            "run": str(self._folder.path),
            **self._records.summary(self._limiter, policy),
            "protocol": self._program.spec.protocol,
            "stop_reason": reason,
        }

    def _resume_hint(self) -> str:
        try:
            saved = self._checkpoint_writer.store.names()
        except OSError as error:  # the reason why the run failed is what counts
            return f"its checkpoints cannot be read ({error})"
        if saved:
            mode = "" if self._program.runtime.parallel else " --inline"
            return f"go on from the last checkpoint with: raydqn resume {self._folder.path}{mode}"
        return "there is no checkpoint yet"

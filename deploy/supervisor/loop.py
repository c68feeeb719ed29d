"""The supervisor's loop: observe, decide, act.

The loop owns the order. Its pieces own their state: one file each, unknown to each other. A piece
yields events, and the loop tells the pieces that they concern.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from common.checkpoint import Checkpoint
from common.config import Config
from common.config_toml import with_actors
from common.errors import (
    DivergedError,
    EnvironmentFailedError,
    RemoteDiedError,
    RunFailedError,
    UserError,
)
from common.handles import Future
from common.parts import Role
from deploy.runs.checkpoint_schema import parse_state
from deploy.runs.folder import RunFolder
from deploy.supervisor import events
from deploy.supervisor.actor_autoscaler import ActorAutoscaler
from deploy.supervisor.actor_pool import ActorPool
from deploy.supervisor.checkpoints import Checkpoints
from deploy.supervisor.context import Context
from deploy.supervisor.control import Control
from deploy.supervisor.dispatch import Dispatch
from deploy.supervisor.evaluation import Evaluation
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.health import HealthMonitor
from deploy.supervisor.memory_check import MemoryCheck
from deploy.supervisor.recovery import Recovery
from deploy.supervisor.reports import Reports
from deploy.supervisor.restore_source import RestoreSource
from deploy.supervisor.shutdown import Shutdown
from deploy.supervisor.slots import Slot
from deploy.supervisor.spawn import Spawner
from deploy.supervisor.stall import StallDetector
from deploy.supervisor.timeouts import Timeouts

if TYPE_CHECKING:  # it imports torch; see deploy.launch.run
    from deploy.program import Program
    from deploy.reporting.view import ProgressView

DEFAULT_TIMEOUTS = Timeouts()


class Supervisor:
    """Runs a program until a stop condition, a signal, or a failure.

    Attributes:
        context, fleet: what the pieces share.
        restore_source, spawner, health, recovery, memory: restarts of parts.
        dispatch, pool, autoscaler, evaluation: work.
        checkpoints, reports, control, stall, shutdown: the run around it.
    """

    def __init__(
        self,
        program: Program,
        folder: RunFolder,
        view: ProgressView,
        started_s: float,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        """A supervisor at the start of a run.

        Args:
            program: all parts, built.
            folder: of the run.
            view: shows reports and events.
            started_s: `time.monotonic()` when the command began.
            timeouts: of the supervisor.
        """
        self.context = context = Context.of(program, folder, view, started_s, timeouts)
        self.restore_source = RestoreSource(
            folder.checkpoints,
            lambda text: context.notify(text, logging.WARNING),
            folder.checkpoints_hang,
        )
        self.spawner = Spawner(context, self.restore_source)
        self.fleet = fleet = Fleet.of(program, self.spawner)
        self.health = HealthMonitor(
            program.runtime, program.config.supervision, timeouts, time.monotonic()
        )
        self.recovery = Recovery(context, fleet, self.restore_source.mark_corrupt)
        self.memory = MemoryCheck(context, fleet)
        self.dispatch = Dispatch(context, fleet)
        self.pool = ActorPool(context, fleet)
        self.autoscaler = ActorAutoscaler(context, fleet)
        self.evaluation = Evaluation(context, fleet)
        self.checkpoints = Checkpoints(context, fleet, lambda: self.evaluation.next_steps)
        self.reports = Reports(context, fleet)
        self.control = Control(context, fleet, self._take_over)
        self.stall = StallDetector(context, fleet)
        self.shutdown = Shutdown(context, fleet, self, self.checkpoints)

    # --- from start to end ------------------------------------------------------------------

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint, from which learner and shards were built already.

        The limiter's ratio and range are those of the configuration, not of the checkpoint.

        Raises:
            CheckpointError: the state, or the part of a shard, is corrupt.
        """
        context, state = self.context, parse_state(checkpoint)
        self.restore_source.expected = True
        context.records.restore(state)
        self.reports.restore_best(state.best_score)
        summaries = [shard.client.summary() for shard in self.fleet.shards]
        held = sum(summary.result().size for summary in summaries)
        context.limiter.restore(state.limiter.model_dump(), held)
        context.begun = context.done
        self.evaluation.restore(state.next_evaluation_steps)
        self.stall.sampled_before = context.limiter.sampled
        self.checkpoints.resumed_from(checkpoint.name)

    def request_stop(self, reason: str) -> None:
        """Ask for a clean stop; safe to call from a signal handler."""
        self.shutdown.request(reason)

    def run(self) -> dict[str, Any]:
        """Run to the end.

        Returns:
            The summary: work done, speeds, score, and the reason of the stop.

        Raises:
            UserError: a part found a mistake of the user's before any work was done.
            RunFailedError: a part cannot be restarted, training diverged, or the run folder cannot
                be written. As much as possible was saved.
        """
        self.reports.open()
        try:
            reason = self._loop()
            self.context.notify(f"stopping: {reason}", logging.DEBUG)
            self.shutdown.finish(reason)
            self._report()  # before the checkpoint, which a full disk may refuse
            summary = self.reports.summary(reason, self.shutdown.save())
            self.reports.write_summary(summary)
            self.shutdown.close_parts()
            return summary
        except DivergedError as error:
            raise RunFailedError(f"{error}; {self.shutdown.resume_hint()}") from error
        except (
            *(UserError, RunFailedError, RemoteDiedError, EnvironmentFailedError),
            OSError,
        ) as error:
            if self.context.is_mistake(error):
                raise
            self.shutdown.save_after_failure()
            raise RunFailedError(f"{error}; {self.shutdown.resume_hint()}") from error
        except Exception:  # a defect of ours, inline: its traceback is needed
            self.shutdown.save_after_failure()
            raise
        finally:
            self.control.close()
            self.reports.close()

    # --- one tick ---------------------------------------------------------------------------

    def _loop(self) -> str:
        """Tick until a stop condition is true, and return its name."""
        while True:
            reason = self.shutdown.reason()
            if reason is not None:
                return reason
            self._tick()

    def _tick(self) -> None:
        handed_out = self._hand_out()
        calls = [*self.dispatch.calls(), *self.evaluation.calls()]
        if not calls and not handed_out:
            if not self._parts_are_starting():
                state = self.context.limiter.explain()
                raise RunFailedError(f"no part can make progress: {state}")
            time.sleep(self.context.timeouts.poll_s)
        ready = self.context.runtime.wait(calls, self.context.timeouts.wait_s)
        self.settle(ready, restart_actors=True)
        now = time.monotonic()
        self.tend(now, self.fleet.env_workers)
        self.pool.grow()
        self.pool.kill_late(now)
        self.autoscale(now)
        self.control.look(now)
        self.control.poll(now)
        self.report_if_due()
        self.check_stall(now)
        self._tell(self.checkpoints.write_if_due(now, self.evaluation.pending))

    def _hand_out(self) -> bool:
        """Give work to idle parts, as far as the limiter lets them; whether any got some."""
        if self.evaluation.running and not self.context.runtime.parallel:
            # The length of an evaluation must not decide what is learnt meanwhile: inline, for the
            # same results each time, it ends before other work begins.
            return True
        handed_out = self.dispatch.hand_out()
        return self.evaluation.begin_if_due() or handed_out

    def _parts_are_starting(self) -> bool:
        fleet, autoscaling = self.fleet, self.context.runtime.autoscaling
        placing = autoscaling and not all(slot.ready for slot in fleet.actors)
        restoring = any(slot.awaiting_restore for slot in fleet.core_parts)
        return placing or restoring or bool(self.recovery.to_reconnect)

    # --- steps, also of a stop --------------------------------------------------------------

    def settle(self, ready: Iterable[Future[Any]], restart_actors: bool) -> None:
        """Take in the results of calls that are over.

        Args:
            ready: the calls.
            restart_actors: whether actors whose call failed are restarted.
        """
        done = {id(future) for future in ready}
        self._tell(self.dispatch.settle(done, restart_actors))
        self.pool.settle(done)
        self._tell(self.evaluation.settle(done))

    def tend(self, now: float, env_workers: list[Slot[Any]]) -> None:
        """Restart parts that are dead or unresponsive, and reconnect their callers.

        Args:
            now: `time.monotonic()`.
            env_workers: actors and evaluators to restart, beside all core parts.
        """
        self._tell(self.recovery.retry_restores(now))
        failures = self.health.look([*self.fleet.core_parts, *env_workers], now)
        self._tell(self.recovery.restart_all(failures))
        self._tell(self.recovery.reconnect())
        self.memory.look()

    def report_if_due(self) -> None:
        """Report at the configured interval."""
        now = time.monotonic()
        self.reports.look_at_disk()
        if self.reports.due(now):
            self.reports.collect_statistics(now)
            self._report()

    def _report(self) -> None:
        line, status = self.reports.report(self.evaluation.running)
        if status is not None:
            self.control.publish(line, status)

    def check_stall(self, now: float) -> None:
        """Fail if nothing happens for too long."""
        self.stall.check(now, self.evaluation.running)

    def autoscale(self, now: float) -> None:
        """On a cluster: adapt number and nodes of the actors to its capacity."""
        self._tell(self.autoscaler.decide(now))

    def begin_evaluation(self) -> None:
        """Evaluate the newest weights."""
        self.evaluation.begin()

    def needs_reconnection(self, slot: Slot[Any]) -> bool:
        """Whether a caller has not received the newest handle of the slot's part yet."""
        return any(part == slot.part for _, part in self.recovery.to_reconnect)

    def settle_checkpoint(self, timeout_s: float) -> bool:
        """Take in the checkpoint in flight; whether none is in flight any more."""
        self._tell(self.checkpoints.settle(timeout_s))
        return not self.checkpoints.in_flight

    # --- events -----------------------------------------------------------------------------

    def _tell(self, happened: Iterable[events.Event]) -> None:
        """Tell each event to the pieces that it concerns, before the next one happens."""
        for event in happened:
            self._tell_one(event)

    def _tell_one(self, event: events.Event) -> None:
        match event:
            case events.CallFailed(slot, error):
                self._tell(self.recovery.restart(slot, error))
            case events.PartLost(slot):
                if slot is self.fleet.learner:
                    self.dispatch.abandon_training()
            case events.PartRestarted(slot):
                self._part_restarted(slot)
            case events.Unreachable(slot, parts):
                self.recovery.note_unreachable(slot, parts)
            case events.Reconnected(slot):
                self.dispatch.reconnected(slot)
            case events.LearnerReported(report):
                self.recovery.record_progress(report)
            case events.ActorDrained(actor, failed):
                self.pool.drained(actor, failed)
            case events.BestScore(evaluation):
                self.reports.save_best(evaluation)
            case events.CheckpointWritten():
                self.restore_source.expected = True
                self.context.folder.records.request()
            case events.AttemptBegun(incarnation):
                self.pool.begin_attempt(incarnation)
                self.evaluation.begin_attempt()
            case events.ActorCountDue(count):
                self._change_actor_count(count)
            case events.ActorMoveDue(actor):
                self.context.notify(f"{actor.part} moves to another node: its own can be released")
                self.pool.move(actor)

    def _part_restarted(self, slot: Slot[Any]) -> None:
        self.stall.restart_clock(time.monotonic())
        match slot.part.role:
            case Role.LEARNER:
                self.context.counters.learner_steps = self.spawner.learner_steps
                self.evaluation.reschedule()
                self.checkpoints.learner_restored()
            case Role.SHARD:
                self.memory.shard_restored()
            case Role.CONTROL_SERVICE:
                self.control.service_restarted()
            case Role.ACTOR:
                self.dispatch.actor_restarted(slot)

    # --- changes ----------------------------------------------------------------------------

    def _change_actor_count(self, count: int) -> None:
        before = len(self.fleet.actors)
        self._take_over(with_actors(self.context.config, count))
        self.context.notify(f"actors.count: {before} → {count}, the cluster's capacity")

    def _take_over(self, new: Config) -> None:
        """Continue with another configuration, whose number of actors is settled."""
        old, context = self.context.config, self.context
        context.program.config = new
        context.limiter.change(new.learner.samples_per_insert, new.ratio_error)
        self.checkpoints.change(new.checkpoint)
        if new.actors.count != old.actors.count:
            self.autoscaler.scattered = new.actors.count < len(self.fleet.actors)
            self.pool.resize()

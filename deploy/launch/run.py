"""One attempt of a run, from its parts to its summary, for `train` and `resume`."""

from __future__ import annotations

import logging
import math
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from common.checkpoint import Checkpoint
from common.config_toml import with_actors
from common.errors import CheckpointError, RunFailedError, UserError
from common.text import shell_command
from common.types import EnvironmentSpec
from common.version import VERSION
from deploy.control.control_file import discard
from deploy.launch.run_events import RunEvents
from deploy.launch.signals import stop_on_signals
from deploy.reporting.summary import ABORTED, FAILED, summary_line
from deploy.reporting.view import ProgressView
from deploy.resources.copies import describe_copies
from deploy.runs.attempts import record_attempt
from deploy.runs.checkpoint_schema import parse_state
from deploy.runs.folder import LOG, RunFolder
from deploy.runs.log import detail_of
from deploy.runtime.connect import as_user_errors
from deploy.runtime.interface import Runtime, check_count
from deploy.runtime.preflight import check_storage
from deploy.supervisor.loop import DEFAULT_TIMEOUTS, Supervisor

RECORDS_S = 20.0
"""Time limit for the last copy of a run's records into its checkpoint storage."""
ATTEMPT_STRIDE = 1 << 16
"""Incarnations reserved for one attempt of a run; the next attempt begins with the next ones."""


def run_parts(
    folder: RunFolder,
    spec: EnvironmentSpec,
    checkpoint: Checkpoint | None,
    runtime: Runtime,
    view: ProgressView,
    started_s: float,
    mode: str = "",
) -> dict[str, Any]:
    """Create all parts in a runtime, and train until the run stops; see `train`.

    Args:
        folder: of the run; events go to its log from now on.
        spec: of the environment.
        checkpoint: that learner and shards restore; None: the run begins.
        runtime: of the parts.
        view: shows progress, or `RunEvents` with events from before; it is closed at the end.
        started_s: `time.monotonic()` when the command began.
        mode: kind of the runtime, for the log.
    """
    events = view if isinstance(view, RunEvents) else RunEvents(view)
    attempt = _Attempt()
    try:
        with (
            folder.lock(),
            _log_closed(events),
            _without_stale_changes(folder),
            _records_copied(folder, events, attempt),
        ):
            if runtime.parallel:
                folder.disk.start()
            events.open_log(folder.path / LOG, folder.disk)
            folder.forget_end()
            with _recorded(folder, events, attempt):
                supervisor = _supervisor(folder, spec, checkpoint, runtime, events, started_s, mode)
                attempt.summary = supervisor.reports.unfinished
                attempt.disk_s = supervisor.context.timeouts.disk_s
                with stop_on_signals(supervisor.request_stop, events.notify):
                    if checkpoint is not None:
                        with _with_way_out(folder, checkpoint):
                            supervisor.restore(checkpoint)
                        folder.save_config(folder.config)
                    else:  # the folder may be that of an attempt without a checkpoint
                        supervisor.reports.restore_best(None)
                        if folder.taken_over:
                            folder.save_config(folder.config)
                    events.notify(f"run folder: {folder.path}")
                    summary = supervisor.run()
                    events.record(summary_line(summary))
                    return summary
    finally:
        if not folder.disk.finish(attempt.disk_s):
            events.notify(
                f"the run folder {folder.path}: its disk has not responded for "
                f"{folder.disk.stuck_s:.0f} s; the newest reports and events are not written",
                logging.WARNING,
            )
        events.close()


@dataclass
class _Attempt:
    """An attempt that may fail.

    Attributes:
        summary: makes the summary of the work so far; before there are parts, there is no work.
        disk_s: longest wait for the run folder at the end.
    """

    summary: Callable[[], dict[str, Any]] = dict
    disk_s: float = DEFAULT_TIMEOUTS.disk_s


@contextmanager
def _log_closed(events: RunEvents) -> Iterator[None]:
    """Close the log at the end, while the folder is still locked."""
    try:
        yield
    finally:
        events.close_log()


@contextmanager
def _records_copied(folder: RunFolder, events: RunEvents, attempt: _Attempt) -> Iterator[None]:
    """Begin with the records in the storage, and copy this attempt's there, to the last."""
    folder.records.failed = lambda line: events.notify(line, logging.WARNING)
    try:
        folder.records.restore()
    except OSError as error:
        events.notify(
            f"{folder.checkpoints.storage.url}: the records of the run cannot be read ({error}); "
            "those in the run folder are used",
            logging.WARNING,
        )
    try:
        yield
    finally:
        written = folder.disk.flush(attempt.disk_s)
        if not folder.records.finish(RECORDS_S if written else 0.0):
            events.notify(
                f"{folder.checkpoints.storage.url}: the newest records of the run are not copied "
                f"there; they are in {folder.path}",
                logging.WARNING,
            )


def _supervisor(
    folder: RunFolder,
    spec: EnvironmentSpec,
    checkpoint: Checkpoint | None,
    runtime: Runtime,
    events: RunEvents,
    started_s: float,
    mode: str,
) -> Supervisor:
    """A supervisor with all parts created."""
    from deploy.launch.initial_weights import initial_weights  # imports torch
    from deploy.program import build as build_program

    exact = folder.config.checkpoint.exact and not runtime.parallel
    attempt, incarnation = _new_attempt(folder, checkpoint, exact)
    command = shell_command(sys.argv)
    events.record(
        f"attempt {attempt}: raydqn {VERSION}, Python {platform.python_version()}"
        f"{', ' if mode else ''}{mode}; {command}"
    )
    describe = partial(record_attempt, folder.path, attempt, mode, command)
    folder.disk.submit(describe, name="attempt")
    with as_user_errors("the cluster") if runtime.autoscaling else nullcontext():
        if runtime.autoscaling and folder.config.checkpoint.replay:
            url = folder.checkpoints.storage.url
            check_storage(url, runtime, folder.config.replay.shards)
        with _with_way_out(folder, checkpoint):  # inline, shards are restored right here
            count = folder.config.actors.count or runtime.capacity([], 0).result()
            check_count(count, runtime)
            config = with_actors(folder.config, count)
            events.notify(describe_copies(config, spec))
            initial = initial_weights(config, spec) if checkpoint is None else None
            program = build_program(config, spec, runtime, incarnation, checkpoint, initial)
        return Supervisor(program, folder, events, started_s)


def _new_attempt(folder: RunFolder, checkpoint: Checkpoint | None, exact: bool) -> tuple[int, int]:
    """Number of this attempt, from 1 on, and the first incarnation of its parts."""
    before = parse_state(checkpoint).incarnation if checkpoint is not None else 0
    # Each attempt has a range of incarnations of its own, so that no random stream repeats. A
    # folder that was recreated from its checkpoints does not know the number of attempts.
    attempts = folder.new_attempt(least=math.ceil(before / ATTEMPT_STRIDE))
    if checkpoint is not None and exact:
        # The steps after the checkpoint are lost, and repeated bit for bit.
        return attempts + 1, before
    return attempts + 1, attempts * ATTEMPT_STRIDE


@contextmanager
def _with_way_out(folder: RunFolder, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Add to the error of a damaged checkpoint how the user can continue."""
    try:
        yield
    except CheckpointError as error:
        assert checkpoint is not None
        raise folder.checkpoints.with_way_out(error, checkpoint.name) from None


@contextmanager
def _without_stale_changes(folder: RunFolder) -> Iterator[None]:
    """Discard requested changes before and after: they are meant for one attempt only."""
    discard(folder.path)
    try:
        yield
    finally:
        folder.disk.submit(lambda: discard(folder.path), name="discard")


@contextmanager
def _recorded(folder: RunFolder, events: RunEvents, attempt: _Attempt) -> Iterator[None]:
    """Record the error that ends an attempt: in the log with its whole cause, and as a summary."""

    def record_end(reason: str, **more: str) -> None:
        summary = {"run": str(folder.path), **attempt.summary(), "stop_reason": reason, **more}
        with suppress(OSError):  # of a full disk; the error itself matters
            folder.disk.call(lambda: folder.write_summary(summary), attempt.disk_s)

    try:
        yield
    except KeyboardInterrupt:
        record_end(ABORTED)
        events.record("stopped at once by a signal", logging.WARNING)
        raise
    except UserError as error:
        record_end(FAILED, error=_line_of(error))
        events.record(f"error: {error}", logging.ERROR)
        raise
    except BaseException as error:
        line = _line_of(error)
        record_end(FAILED, error=line)
        events.record(f"failed: {line}", logging.ERROR, detail_of(error))
        raise


def _line_of(error: BaseException) -> str:
    """The error in one line; an error that is not the project's own is named by its class, too."""
    own = isinstance(error, (UserError, RunFailedError))
    return " ".join((str(error) if own else f"{type(error).__name__}: {error}").split())

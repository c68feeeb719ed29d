"""The runtime that a run lives in: this process, Ray on this machine, or a cluster."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from common.config import Config
from common.network_shapes import warning_of_torso
from common.text import counted
from common.types import EnvironmentSpec
from deploy.launch.run_events import RunEvents
from deploy.launch.signals import STOP_REASONS, StartInterrupted, deferred_signals
from deploy.resources.copies import warning_of_copies
from deploy.resources.memory import check_memory, object_store_bytes
from deploy.runtime.connect import as_user_errors, joined_cluster
from deploy.runtime.heartbeats import check_hung_after
from deploy.runtime.inline import InlineRuntime
from deploy.runtime.interface import Runtime
from deploy.runtime.local_ray import local_ray
from deploy.runtime.preflight import check_memories
from deploy.runtime.quiet import without_native_lines
from deploy.runtime.ray_actor import collecting_no_garbage
from deploy.runtime.ray_private import messages_to


def describe_runtime(inline: bool, address: str | None) -> str:
    """The kind of runtime, for the log."""
    if address is not None:
        return f"Ray cluster at {address}"
    return "one process, without Ray" if inline else "Ray on this machine"


@contextmanager
def open_runtime(
    config: Config,
    spec: EnvironmentSpec,
    inline: bool,
    address: str | None,
    events: RunEvents,
    run: str,
) -> Iterator[Runtime]:
    """A runtime for a valid configuration; it ends with the context.

    Args:
        config: of the run.
        spec: of its environment.
        inline: this process, without Ray.
        address: of a Ray cluster; None: Ray is started on this machine.
        events: receives progress of the start.
        run: name of the run.

    Raises:
        UserError: the configuration is not valid, or there is no such cluster.
    """
    if not inline:
        check_hung_after(config.supervision)
    _warn(warning_of_torso(config.network, spec), events)
    if address is not None:
        events.notify(f"joining the cluster at {address} …")
        _check(config, spec, here=False)
        with joined_cluster(address, config, events, run) as runtime:
            with as_user_errors(f"--address={address}"):
                check_memories(config, spec, runtime)
            with messages_to(events.record_ray):
                yield runtime
        return
    check_memory(config, spec, on_ray=not inline)  # before a part allocates any
    _warn(warning_of_copies(config, spec, on_ray=not inline), events)
    if inline:
        _check(config, spec)
        _warn_of_short_episodes(config, spec, events)
        yield InlineRuntime()
        return
    with without_native_lines(), ExitStack() as stack:
        yield _start_ray(config, spec, events, stack)


def _start_ray(
    config: Config, spec: EnvironmentSpec, events: RunEvents, stack: ExitStack
) -> Runtime:
    """Start Ray on this machine, and check the configuration meanwhile.

    Ray needs seconds to start and mostly waits. A thread imports torch in that time; Ray starts in
    this thread, because its processes end with the thread that started them.
    """

    def notify_received(number: signal.Signals) -> None:
        reason = f"{STOP_REASONS[number]} ({number.name})"
        events.notify(f"{reason} while Ray starts: ending its processes …")

    with deferred_signals(notify_received) as received, ThreadPoolExecutor(1) as pool:

        def check_signals() -> None:
            if received():
                raise StartInterrupted

        checking = pool.submit(_check, config, spec)
        size = object_store_bytes(config, spec)
        warn = partial(events.notify, level=logging.WARNING)
        ray = local_ray(size, config, events.notify, check_signals, events.record_ray, warn)
        runtime = stack.enter_context(ray)
        checking.result()
    return runtime


def _warn(warning: str | None, events: RunEvents) -> None:
    if warning is not None:
        events.notify(warning, logging.WARNING)


def _warn_of_short_episodes(config: Config, spec: EnvironmentSpec, events: RunEvents) -> None:
    """With `checkpoint.exact`, warn where checkpoints are closer together than an episode is long.

    An episode without a limit of its own counts as long as the longest in an evaluation.
    """
    longest = spec.max_episode_steps or config.evaluation.max_episode_steps
    reached = config.exact_episode_steps
    if config.checkpoint.exact and reached < longest:
        events.notify(
            f"checkpoint.exact: each checkpoint ends every episode, so no episode gets longer than "
            f"{counted(round(reached), 'env step')}, of up to {longest:,} (every_learner_steps × "
            "batch_size ÷ samples_per_insert ÷ copies); rewards beyond are never seen. Raise "
            "checkpoint.every_learner_steps, or leave checkpoint.exact out",
            logging.WARNING,
        )


def _check(config: Config, spec: EnvironmentSpec, here: bool = True) -> None:
    with collecting_no_garbage():
        from deploy.program import check  # imports torch

    check(config, spec, here)

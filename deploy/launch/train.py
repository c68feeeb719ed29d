"""Training from the beginning: `raydqn train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from actors.environments import environment_spec
from common.config import Config
from common.config_sections import NONE
from common.config_toml import build, merge
from common.errors import UserError
from deploy.launch import runtimes
from deploy.launch.run import run_parts
from deploy.launch.run_events import RunEvents
from deploy.launch.run_path import run_name, run_path
from deploy.launch.signals import restored_handlers
from deploy.reporting.view import ProgressView, SilentView
from deploy.runs.checkpoint_schema import RanOn
from deploy.runs.folder import RunFolder, check_free, check_unused


def train(
    config: Config,
    run_dir: Path | None = None,
    *,
    inline: bool = True,
    address: str | None = None,
    view: ProgressView | None = None,
    started_s: float | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Train from the beginning.

    Args:
        config: of the run.
        run_dir: an empty or new folder, or that of a start that failed, whose log is kept; by
            default a new one under `runs/`.
        inline: in this process, without Ray.
        address: of a Ray cluster to run on; None: Ray is started on this machine.
        view: shows progress; by default nothing is shown.
        started_s: `time.monotonic()` when the command began.
        restart: `run_dir` may also be of a run that ended before its first checkpoint; its log and
            reports are kept.

    Returns:
        The summary (see `Supervisor.run`).

    Raises:
        UserError: the configuration has a mistake; nothing was written.
        RunFailedError: the run could not continue; its folder has the cause in `run.log`.
    """
    started_s = time.monotonic() if started_s is None else started_s
    events = RunEvents(view or SilentView())
    config = with_absolute_storage(config)
    with run_path(run_dir, run_name(config.env.id)) as path:
        if not restart:
            check_free(path)
        check_unused(path, config)
        spec = environment_spec(config.env, config.seed)
        if config.network.init is not None:
            from deploy.launch.initial_weights import initial_weights  # imports torch

            initial_weights(config, spec)  # refused before Ray starts
        mode = runtimes.describe_runtime(inline, address)
        with (
            restored_handlers(),
            runtimes.open_runtime(config, spec, inline, address, events, path.name) as runtime,
        ):
            folder = RunFolder.create(path, config, restart)
            folder.ran_on = RanOn(inline=inline and address is None, address=address)
            if folder.taken_over:
                events.record("an earlier start in this folder failed; this one begins anew")
            try:
                return run_parts(folder, spec, None, runtime, events, started_s, mode)
            except (UserError, KeyboardInterrupt):
                # The terminal shows a UserError in full, and an interrupt has no cause to record.
                # After any other failure before the first report, the folder keeps the log.
                folder.discard_unless_used()
                raise


def with_absolute_storage(config: Config) -> Config:
    """The configuration with places that later commands find from any working directory."""
    over: dict[str, dict[str, str]] = {}
    for section, key, place in (
        ("checkpoint", "storage", config.checkpoint.storage),
        ("network", "init", config.network.init),
    ):
        if place is not None and absolute_storage(place) != place:
            over[section] = {key: absolute_storage(place)}
    return build(merge(config.model_dump(), over)) if over else config


def absolute_storage(storage: str) -> str:
    """A place for checkpoints that means the same in any working directory."""
    if "://" in storage or storage == NONE:
        return storage
    return str(Path(storage).expanduser().absolute())

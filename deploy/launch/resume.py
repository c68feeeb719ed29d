"""Resuming a run from a checkpoint: `raydqn resume`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from actors.environments import environment_spec
from common.checkpoint import Checkpoint, CheckpointStore
from common.config import Config
from common.config_errors import COMMAND_LINE, Spelling
from common.config_toml import build, merge, to_toml
from common.errors import CheckpointError, RunFinishedError, UserError, shorten
from common.storage import LocalStorage, Storage, open_storage
from deploy.launch import runtimes
from deploy.launch.run import run_parts
from deploy.launch.run_events import RunEvents
from deploy.launch.signals import restored_handlers
from deploy.reporting.view import ProgressView, SilentView
from deploy.runs.checkpoint_schema import (
    RanOn,
    RunState,
    check_restorable,
    check_state,
    parse_state,
)
from deploy.runs.folder import RunFolder, is_run
from deploy.runs.records import restore_records


def resume(
    run_dir: Path,
    overrides: dict[str, Any] | None = None,
    *,
    checkpoint_name: str | None = None,
    inline: bool | None = None,
    inline_unless_recorded: bool = True,
    address: str | None = None,
    view: ProgressView | None = None,
    started_s: float | None = None,
    spelling: Spelling = COMMAND_LINE,
) -> dict[str, Any]:
    """Resume a run from its newest checkpoint, or from the named one.

    Args:
        run_dir: folder of the run.
        overrides: keys of its configuration to replace, nested by section.
        checkpoint_name: of an older checkpoint.
        inline: in this process, or with Ray on this machine; None: as the run ran before.
        inline_unless_recorded: the same for a checkpoint that does not record how the run ran.
        address: as for `train`, like the other arguments, results and errors.
        view: likewise.
        started_s: likewise.
        spelling: of the overrides, in errors about them.
    """
    started_s = time.monotonic() if started_s is None else started_s
    if (overrides or {}).get("network", {}).get("init") is not None:
        raise UserError(
            "network.init: sets the weights that a run starts with, and this one continues with "
            "those of its checkpoint; resume without it, or train a new run"
        )
    folder = RunFolder.open(run_dir, overrides, spelling)
    config = folder.config
    events = RunEvents(view or SilentView())
    checkpoint = _checkpoint_of(folder, checkpoint_name)
    state = check_restorable(checkpoint, config)
    _check_unfinished(state, folder)
    if address is not None:
        ran_on = RanOn(inline=False, address=address)
    elif inline is not None:
        ran_on = RanOn(inline=inline)
    else:
        ran_on = _recorded(state, folder) or RanOn(inline=inline_unless_recorded)
    folder.ran_on = ran_on
    events.record(f"resuming from checkpoint {checkpoint.name} of {checkpoint.url}")
    changes = _changes(run_dir, config) if overrides else []
    if changes:
        events.record(f"changed at this resume: {', '.join(changes)}")
    spec = environment_spec(config.env, config.seed)
    where, name = (ran_on.inline, ran_on.address), folder.path.name
    mode = runtimes.describe_runtime(*where)
    with (
        restored_handlers(),
        runtimes.open_runtime(config, spec, *where, events, name) as runtime,
    ):
        return run_parts(folder, spec, checkpoint, runtime, events, started_s, mode)


def _recorded(state: RunState, folder: RunFolder) -> RanOn | None:
    """The runtime of the run before this resume; None: the checkpoint does not record it.

    Raises:
        UserError: it was a cluster, which may be gone.
    """
    ran_on = state.ran_on
    if ran_on is not None and ran_on.address is not None:
        raise UserError(
            f"{folder.path}: ran on the Ray cluster at {shorten(ran_on.address)}, which may be "
            "gone; to resume the run there or on another cluster, name it with --address; to "
            "resume it on this machine, use --ray or --inline"
        )
    return ran_on


def _checkpoint_of(folder: RunFolder, name: str | None) -> Checkpoint:
    store = folder.checkpoints
    if name is None:
        return store.newest()
    try:
        return store.load(name)
    except CheckpointError as error:
        raise store.with_way_out(error, name) from None


def _changes(run_dir: Path, new: Config) -> list[str]:
    """`section.key old → new` for each key that differs from the recorded configuration."""
    try:
        old = RunFolder.open(run_dir).config
    except UserError as error:  # it is valid with the replaced values only
        return [f"the recorded configuration, which is not valid ({error})"]
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    changes = []
    for section, values in after.items():
        nested = values if isinstance(values, dict) else {"": values}
        was = before[section] if isinstance(values, dict) else {"": before[section]}
        changes += [
            f"{'.'.join(filter(None, (section, key)))} {was.get(key)} → {value}"
            for key, value in nested.items()
            if was.get(key) != value
        ]
    return changes


def _check_unfinished(state: RunState, folder: RunFolder) -> None:
    """Refuse to resume a run that has reached one of its stop conditions.

    Raises:
        RunFinishedError: names the stop condition.
    """
    stop, counters = folder.config.stop, state.counters
    key = stop.reached(
        score=state.score,
        learner_steps=counters.learner_steps,
        env_steps=counters.env_steps,
        wall_s=counters.wall_s,
    )
    if key is not None:
        now = state.score if key == "score" else getattr(counters, key)
        raise RunFinishedError(
            f"{folder.path}: has reached stop.{key}={getattr(stop, key):g} already (it is at "
            f"{now:g}); to continue, set a greater value, or none: "
            f"--stop.{key.replace('_', '-')} none",
            key,
        )


def fetch_run(url: str, folder: Path | None = None) -> Path:
    """A run folder for a run whose machine is gone, created from its newest checkpoint.

    Best weights, metrics and log come back with it, as far as the storage has them.

    Args:
        url: of the run's checkpoints: `checkpoint.storage`, then the run's name.
        folder: to create; by default one of the run's name under `runs/`.

    Returns:
        The folder; one that exists already is left as it is.

    Raises:
        UserError: there is no checkpoint, or the existing folder belongs to a run with its
            checkpoints elsewhere.
    """
    place, _, name = url.rstrip("/").rpartition("/")
    path, storage = folder or Path("runs") / name, open_storage(url)
    if is_run(path):
        there = RunFolder.open(path).checkpoints.storage
        if _place(there) != _place(storage):
            raise UserError(
                f"{path}: is of a run whose checkpoints are in {there.url}, not in {url}; move it "
                "away, or resume that run by its folder"
            )
        return path
    # Only the configuration is needed, so files of the replay memory may be missing.
    checkpoint = CheckpointStore(storage, 1, check_state, replay=False).newest()
    values = merge(parse_state(checkpoint).config, {"checkpoint": {"storage": place}})
    config = build(values, str(checkpoint))
    try:
        to_toml(config)
    except (ValueError, TypeError) as error:  # env.kwargs may hold any JSON value
        raise UserError(f"{checkpoint}: its config cannot be written ({error})") from None
    RunFolder.create(path, config)
    try:
        restore_records(storage, path)
    except OSError as error:
        raise UserError(f"{url}: the run's records cannot be restored ({error})") from None
    return path


def is_storage_of_run(path: Path) -> bool:
    """Whether a folder is the place of a run's checkpoints, `checkpoint.storage` and its name."""
    return (
        not is_run(path)
        and path.is_dir()
        and bool(CheckpointStore(open_storage(str(path)), 1).names())
    )


def _place(storage: Storage) -> str:
    return str(storage.folder.resolve()) if isinstance(storage, LocalStorage) else storage.url

"""Resuming a run from a checkpoint: `raydqn resume`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from actors.environments import environment_spec
from common.checkpoint import Checkpoint, CheckpointStore
from common.config import Config
from common.config_text import build, merge, to_toml
from common.errors import CheckpointError, UserError
from common.storage import LocalStorage, Storage, open_storage
from deploy.launch import runtimes
from deploy.launch.events import RunEvents
from deploy.launch.run import run_parts
from deploy.reporting.view import ProgressView, SilentView
from deploy.runs.checkpoint_schema import RunState, check_restorable, check_state, parse_state
from deploy.runs.folder import RunFolder, is_run
from deploy.runs.records import restore_records


def resume(
    run_dir: Path,
    overrides: dict[str, Any] | None = None,
    *,
    checkpoint_name: str | None = None,
    inline: bool = True,
    address: str | None = None,
    view: ProgressView | None = None,
    started_s: float | None = None,
) -> dict[str, Any]:
    """Resume a run from its newest checkpoint, or from the named one.

    Args:
        run_dir: folder of the run.
        overrides: keys of its configuration to replace, nested by section.
        checkpoint_name: of an older checkpoint.
        inline: as for `train`, like the other arguments, results and errors.
        address: likewise.
        view: likewise.
        started_s: likewise.
    """
    started_s = time.monotonic() if started_s is None else started_s
    folder = RunFolder.open(run_dir, overrides)
    config = folder.config
    events = RunEvents(view or SilentView())
    checkpoint = _checkpoint_of(folder, checkpoint_name)
    _check_unfinished(check_restorable(checkpoint, config), folder)
    events.record(f"resuming from checkpoint {checkpoint.name} of {checkpoint.url}")
    changes = _changes(run_dir, config) if overrides else []
    if changes:
        events.record(f"changed at this resume: {', '.join(changes)}")
    spec = environment_spec(config.env, config.seed)
    mode = runtimes.describe_runtime(inline, address)
    name = folder.path.name
    with runtimes.open_runtime(config, spec, inline, address, events, name) as runtime:
        return run_parts(folder, spec, checkpoint, runtime, events, started_s, mode)


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
        UserError: names the stop condition.
    """
    stop, counters = folder.config.stop, state.counters
    reached = {
        "score": state.score,
        "learner_steps": counters.learner_steps,
        "env_steps": counters.env_steps,
        "wall_s": counters.wall_s,
    }
    for key, now in reached.items():
        goal = getattr(stop, key)
        if goal is not None and now is not None and now >= goal:
            option = key.replace("_", "-")
            raise UserError(
                f"{folder.path}: has reached stop.{key}={goal:g} already (it is at {now:g}); to "
                f"continue, set a greater value or none: --stop.{option} none"
            )


def fetch_run(url: str) -> Path:
    """A run folder for a run whose machine is gone, created from its newest checkpoint.

    Args:
        url: of the run's checkpoints: `checkpoint.storage`, then the run's name.

    Returns:
        The folder, under `runs/`; one that exists already is left as it is.

    Raises:
        UserError: there is no checkpoint, or the existing folder belongs to a run with its
            checkpoints elsewhere.
    """
    place, _, name = url.rstrip("/").rpartition("/")
    path, storage = Path("runs") / name, open_storage(url)
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


def _place(storage: Storage) -> str:
    return str(storage.folder.resolve()) if isinstance(storage, LocalStorage) else storage.url

"""`raydqn train --resume-if-exists`: the same command begins a run, and continues it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.config import Config
from common.errors import RunFinishedError, UserError
from deploy.launch.resume import fetch_run
from deploy.launch.train import with_absolute_storage
from deploy.runs.folder import SUMMARY, RunFolder, is_run


def run_to_resume(config: Config, path: Path) -> bool:
    """Whether a run of that folder's name has a checkpoint, so that it can be resumed.

    A folder that is gone is created anew from the run's checkpoints, where `checkpoint.storage`
    holds some.

    Args:
        config: of a new run.
        path: its folder, whose name is the run's name.

    Raises:
        UserError: the folder or the storage is of another run, a process runs it, or the storage
            cannot be read.
    """
    if not is_run(path):
        folder = RunFolder(path, with_absolute_storage(config))
        if folder.config.checkpoint.storage is None or not _checkpoints(folder):
            return False
        fetch_run(folder.checkpoints.storage.url, path)
    folder = RunFolder.open(path)
    if folder.is_running():
        raise UserError(f"{path}: another process is running it")
    _check_same(folder.config, config, path)
    return bool(_checkpoints(folder))


def summary_of_finished(path: Path, error: RunFinishedError) -> dict[str, Any]:
    """The summary of a run that has reached one of its stop conditions.

    The condition may be one that the command has changed. A run that was killed after its last
    checkpoint has no summary: only folder and condition are known then.

    Args:
        path: folder of the run.
        error: says which condition.
    """
    summary: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        summary = dict(json.loads((path / SUMMARY).read_text(encoding="utf-8")))
    summary.pop("error", None)  # of an attempt that failed after the checkpoint
    return {"run": str(path), **summary, "stop_reason": error.stop_reason}


def _check_same(recorded: Config, given: Config, path: Path) -> None:
    """Refuse to continue a run of another environment or network than the command names.

    Raises:
        UserError: names the first key, and both values.
    """
    for section in ("env", "network"):
        was = getattr(recorded, section).model_dump(mode="json")
        for key, value in getattr(given, section).model_dump(mode="json").items():
            if was[key] != value and key != "init":  # of a run that began, it counts no more
                raise UserError(
                    f"--run-dir={path}: is of a run with {section}.{key}={was[key]}, but the "
                    f"command has {value}; name another --run-dir, or the same configuration"
                )


def _checkpoints(folder: RunFolder) -> list[str]:
    try:
        return folder.checkpoints.names()
    except OSError as error:
        url = folder.checkpoints.storage.url
        raise UserError(f"checkpoint.storage: {url} cannot be read ({error})") from None

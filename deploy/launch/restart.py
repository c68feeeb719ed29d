"""`raydqn train --resume-if-exists`: the same command begins a run, and continues it."""

from __future__ import annotations

from pathlib import Path

from common.config import Config
from common.errors import UserError
from deploy.launch.resume import fetch_run
from deploy.launch.train import with_absolute_storage
from deploy.runs.folder import RunFolder, is_run


def run_to_resume(config: Config, path: Path) -> bool:
    """Whether a run of that folder's name has a checkpoint, so that it can be resumed.

    A folder that is gone is created anew from the run's checkpoints, where `checkpoint.storage`
    holds some.

    Args:
        config: of a new run.
        path: its folder, whose name is the run's name.

    Raises:
        UserError: the folder holds something else, or the storage cannot be read.
    """
    if is_run(path):
        return bool(_checkpoints(RunFolder.open(path)))
    folder = RunFolder(path, with_absolute_storage(config))
    if folder.config.checkpoint.storage is None or not _checkpoints(folder):
        return False
    fetch_run(folder.checkpoints.storage.url, path)
    return True


def _checkpoints(folder: RunFolder) -> list[str]:
    try:
        return folder.checkpoints.names()
    except OSError as error:
        url = folder.checkpoints.storage.url
        raise UserError(f"checkpoint.storage: {url} cannot be read ({error})") from None

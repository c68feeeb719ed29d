"""The error about a path that is not the folder of a run."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

STUDY_RECORD, STUDY_RUNS = "study.json", "runs"
"""A file that each study folder has, and the folder of its runs."""


def no_run(path: Path, wanted: str) -> UserError:
    """An error that says why a path is not the folder of a run.

    Args:
        path: that was given.
        wanted: a file that each run folder has.
    """
    why = f"it has no {wanted}"
    if not path.exists():
        why = "it is not there, or not yet"
    elif path.is_file():
        why = "it is a file"
    elif (path / STUDY_RECORD).is_file():
        why = f"it is a study; its runs are in {path / STUDY_RUNS}"
    return UserError(f"{path}: not a run folder ({why})")

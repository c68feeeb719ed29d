"""Where a new run is recorded: a name and a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from common.errors import UserError
from common.polling import call_within

REMOVE_S = 5.0
"""Longest wait for a disk at the end of a command."""


def run_name(env_id: str) -> str:
    """`CartPole-v1` → `cartpole-v1`: how runs of an environment are named."""
    return env_id.rpartition("/")[2].rpartition(":")[2].lower()


def new_run_path(name: str) -> Path:
    """A new folder `runs/NAME-DATE-TIME`, created here so that no other run gets the same.

    Raises:
        UserError: it cannot be created.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{name}-{stamp}", 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = Path("runs") / f"{name}-{stamp}-{number}"
        except OSError as error:
            raise UserError(
                f"{path}: cannot be created ({error.strerror}); name another with --run-dir"
            ) from None


@contextmanager
def run_path(given: Path | None, name: str) -> Iterator[Path]:
    """`given`, or a new folder under `runs/` that is removed at the end if it is still empty."""
    if given is not None:
        yield given
        return
    path = new_run_path(name)
    try:
        yield path
    finally:
        with suppress(TimeoutError):
            call_within(REMOVE_S, lambda: _remove_empty(path))


def _remove_empty(path: Path) -> None:
    with suppress(OSError):  # not empty
        path.rmdir()
        path.parent.rmdir()

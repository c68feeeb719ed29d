"""CPU cores for one process alone: those of a trial of a study."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from deploy.runtime.temp_folder import private_temp_folder

FOLDER = "cores"
LOOK_S = 0.2
"""Time over which the load of the cores is measured."""


@contextmanager
def own_cores(count: int, folder: Path | None = None) -> Iterator[tuple[int, ...]]:
    """Cores that no other trial of this user on this machine has, for the block.

    Of those that are free, other programs run least on these when the block begins.

    A file for each core is locked: studies that run at the same time share the machine, and the
    lock of a process that is killed is free again.

    Args:
        count: how many.
        folder: of the files; by default the user's own, below the one of Ray's files.

    Yields:
        The cores; none if too few are free: then the trial shares all of them.
    """
    folder = folder or private_temp_folder().parent / FOLDER
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            cores = _lock(count, folder, stack)
        except OSError:  # a disk that is full or read-only
            cores = ()
        yield cores


def _lock(count: int, folder: Path, stack: ExitStack) -> tuple[int, ...]:
    with (folder / "all").open("w") as turn:  # two that look at once would each get half
        fcntl.flock(turn, fcntl.LOCK_EX)
        cores: list[int] = []
        with ExitStack() as held:
            for core in _idle_first(os.sched_getaffinity(0)):
                file = held.enter_context((folder / str(core)).open("w"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                cores.append(core)
                if len(cores) == count:
                    stack.push(held.pop_all())
                    return tuple(cores)
    return ()


def _idle_first(cores: Iterable[int]) -> list[int]:
    """The cores, those first on which other programs run least, in steps of a quarter."""
    busy = dict(enumerate(psutil.cpu_percent(LOOK_S, percpu=True)))
    return sorted(cores, key=lambda core: (busy.get(core, 0.0) // 25, core))

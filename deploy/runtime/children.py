"""Child processes that environments have started."""

from __future__ import annotations

from contextlib import suppress

import psutil

REAPED_WITHIN_S = 1.0
PYTHONS_OWN = "multiprocessing.resource_tracker"
"""Python's tracker of shared memory: it removes leaked segments and exits by itself."""

_spared: frozenset[psutil.Process] = frozenset()


def spare_children() -> None:
    """Exempt the children of now, and all processes below them, from `end_children`.

    A shell has children of its own when it becomes this process: `tensorboard … & exec raydqn …`.
    """
    global _spared
    with suppress(psutil.Error, OSError):
        _spared = frozenset(psutil.Process().children())


def end_children() -> int:
    """Kill all processes below this one that are not spared; returns how many there were.

    A forked child inherits the program's handler of SIGTERM, so the signal is SIGKILL.
    """
    children: list[psutil.Process] = []
    with suppress(psutil.Error, OSError):
        below = psutil.Process().children(recursive=True)
        spared = set(_spared)
        for process in _spared:
            with suppress(psutil.Error):  # it has ended
                spared.update(process.children(recursive=True))
        for child in below:
            with suppress(psutil.Error):  # it has ended
                if child not in spared and PYTHONS_OWN not in " ".join(child.cmdline()):
                    child.kill()
                    children.append(child)
        psutil.wait_procs(children, timeout=REAPED_WITHIN_S)
    return len(children)

"""Child processes that environments have started."""

from __future__ import annotations

from contextlib import suppress

import psutil

REAPED_WITHIN_S = 1.0
PYTHONS_OWN = "multiprocessing.resource_tracker"
"""Ends by itself, after it has removed what processes have left behind."""


def end_children() -> int:
    """Kill all processes below this one; returns how many there were.

    A copy of this process has its signal handlers, so that SIGTERM would not end it.
    """
    children = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if PYTHONS_OWN not in " ".join(child.cmdline()):
                child.kill()
                children.append(child)
    psutil.wait_procs(children, timeout=REAPED_WITHIN_S)
    return len(children)

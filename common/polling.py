"""Waiting with a limit: the one polling loop, and work that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def poll_until(look: Callable[[], T], timeout_s: float, every_s: float) -> T:
    """Look at intervals until the result counts as true, or the time is up; the last result.

    It looks at least once, and a last time when the time is up.

    Args:
        look: what to look at; an exception from it ends the wait.
        timeout_s: longest wait; infinite: no limit.
        every_s: seconds between two looks.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        found = look()
        left_s = end_s - time.monotonic()
        if found or left_s <= 0:
            return found
        time.sleep(min(every_s, left_s))


def run_within(limit_s: float, work: Callable[[], object]) -> bool:
    """Run work in a thread; whether it was over in time. An exception counts as its end.

    A disk that hangs blocks the thread, which does not keep the process.
    """

    def run() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=run, name="within", daemon=True)
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()

"""Waiting with a limit: the one polling loop, and work that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
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


def call_within(limit_s: float, work: Callable[[], T]) -> T:
    """The result of work that may hang, such as a look at a disk.

    The work runs in a thread, which does not keep the process.

    Args:
        limit_s: longest wait.
        work: what to do; its exception is raised here.

    Raises:
        TimeoutError: the work is not over in time.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    return result.result(limit_s)

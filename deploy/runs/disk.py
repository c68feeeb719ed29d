"""The disk of the run folder: a thread reads and writes it, so that no caller waits for it.

A network disk that hangs blocks each call for minutes, in the kernel, where nothing can interrupt
it. So a run on Ray hands its reads and writes to one thread, and looks at the results later.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from common.errors import UserError

T = TypeVar("T")

MAX_WAITING = 2_000
"""Jobs without a name that wait, at the most: half an hour of reports."""
HANGS_AFTER_S = 1.0
"""A job that lasts longer may have met a disk that hangs."""


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[], T]
    future: Future[T] = field(default_factory=Future)


class Disk:
    """Runs jobs, each of which reads or writes files, one after the other, in their order.

    Before `start` and after a complete `finish`, a job runs in the caller's thread at once.

    Attributes:
        dropped: jobs that were dropped because too many waited.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """A disk whose jobs run at once.

        Args:
            max_waiting: see `MAX_WAITING`.
        """
        self.dropped = 0
        self._max_waiting = max_waiting
        # A signal handler may submit amid another submit: RLock and SimpleQueue can take that.
        self._lock = threading.RLock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._waiting: dict[str | int, _Job[Any]] = {}  # by name or number, in their order
        self._numbers = itertools.count()
        self._unnamed: deque[int] = deque()  # numbers of the jobs without a name
        self._thread: threading.Thread | None = None
        self._since_s: float | None = None  # when the job in progress began
        self._ending = False

    def start(self) -> None:
        """Run jobs in a thread from now on.

        It is a daemon, since the end of the program must not wait for a disk that hangs.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_all, name="disk", daemon=True)
            self._thread.start()

    @property
    def stuck_s(self) -> float:
        """Seconds for which the job in progress has lasted; 0 without one."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def hangs(self) -> bool:
        """Whether the job in progress lasts so long that a direct access might wait, too."""
        return self.stuck_s >= HANGS_AFTER_S

    @property
    def waiting(self) -> int:
        """Number of jobs that have not begun."""
        return len(self._waiting)

    def submit(self, work: Callable[[], T], name: str | None = None) -> Future[T]:
        """Run a job; without a thread, it is over when this returns.

        Args:
            work: reads or writes files.
            name: the job takes the place of one of that name that has not begun, whose future is
                cancelled, and is never dropped. Of jobs without a name, the oldest is dropped where
                too many wait.

        Returns:
            The result of the job, now or later. Without a thread, an error is raised at once if it
            is neither the disk's nor the user's.
        """
        job = _Job(work)
        if self._thread is None:
            try:
                job.future.set_result(work())
            except (OSError, UserError) as error:
                job.future.set_exception(error)
            return job.future
        with self._lock:
            if name is None:
                number = next(self._numbers)
                self._waiting[number] = job
                self._unnamed.append(number)
                self._drop_oldest()
            else:
                before = self._waiting.pop(name, None)
                self._waiting[name] = job
                if before is not None:
                    before.future.cancel()
        if self._wake.empty():
            self._wake.put(None)
        return job.future

    def call(self, work: Callable[[], T], limit_s: float) -> T:
        """The result of a job, after those that wait.

        Args:
            work: reads or writes files.
            limit_s: longest wait, and longest time that one job may take.

        Raises:
            OSError: of the job; `TimeoutError`: the disk has not responded in time, and the job
                runs when it does.
        """
        future = self.submit(work, name=f"call {next(self._numbers)}")
        deadline_s = time.monotonic() + limit_s
        while not future.done():
            left_s = self._left_s(deadline_s, limit_s)
            if left_s <= 0:
                raise TimeoutError(f"the disk of the run folder has not responded in {limit_s:g} s")
            wait([future], left_s)
        return future.result()

    def flush(self, limit_s: float) -> bool:
        """Wait until all jobs so far are over; whether they are; see `call`."""
        try:
            self.call(lambda: None, limit_s)
        except TimeoutError:
            return False
        return True

    def finish(self, limit_s: float) -> bool:
        """Run the jobs that wait, and end the thread; whether all are over.

        Args:
            limit_s: longest wait, and longest time that one job may take.
        """
        thread = self._thread
        if thread is None:
            return True
        self._ending = True
        self._wake.put(None)
        deadline_s = time.monotonic() + limit_s
        while thread.is_alive():
            left_s = self._left_s(deadline_s, limit_s)
            if left_s <= 0:
                return False
            thread.join(left_s)
        return True

    def _left_s(self, deadline_s: float, limit_s: float) -> float:
        """Seconds to wait; none where one job takes too long: several waits don't add up."""
        return min(deadline_s - time.monotonic(), limit_s - self.stuck_s)

    def _drop_oldest(self) -> None:
        if len(self._unnamed) > self._max_waiting:
            self._waiting.pop(self._unnamed.popleft()).future.cancel()
            self.dropped += 1

    # --- the thread ---------------------------------------------------------------------------

    def _run_all(self) -> None:
        while True:
            self._wake.get()
            self._run_waiting()
            with self._lock:
                if self._ending and not self._waiting:
                    self._thread, self._ending = None, False
                    return

    def _run_waiting(self) -> None:
        while (job := self._next()) is not None:
            self._since_s = time.monotonic()
            try:
                job.future.set_result(job.work())
            except Exception as error:  # for the caller, when it looks at the result
                job.future.set_exception(error)
            self._since_s = None

    def _next(self) -> _Job[Any] | None:
        with self._lock:
            key = next(iter(self._waiting), None)
            if key is None:
                return None
            if isinstance(key, int):
                self._unnamed.popleft()
            return self._waiting.pop(key)

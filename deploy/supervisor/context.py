"""The context that the pieces of the supervisor share: the run, its records, its limits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from common.config import Config
from common.errors import UserError
from common.handles import Future
from common.polling import poll_until
from deploy.runs.folder import RunFolder
from deploy.runs.statistics import Counters, RunStatistics
from deploy.runtime.interface import Runtime
from deploy.supervisor.timeouts import Timeouts
from replay_server.rate_limiter import RateLimiter

if TYPE_CHECKING:  # it imports torch; see deploy.launch.run
    from deploy.program import Program
    from deploy.reporting.view import ProgressView

TRAIN_CALLS_IN_FLIGHT = 2
"""The learner starts the second without waiting for the supervisor to read the first report."""
MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""A part that fails more often in a row ends the run: restarting it again will not help."""


@dataclass
class Context:
    """The run as every piece sees it.

    Attributes:
        program: handles of all parts.
        folder: of the run.
        view: shows reports and events.
        records: counters and statistics.
        limiter: keeps the ratio of samples to inserts.
        timeouts: of the supervisor.
        started_s: `time.monotonic()` when the command began.
        begun: counters at the start of this attempt.
    """

    program: Program
    folder: RunFolder
    view: ProgressView
    records: RunStatistics
    limiter: RateLimiter
    timeouts: Timeouts
    started_s: float
    begun: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.done

    @classmethod
    def of(
        cls,
        program: Program,
        folder: RunFolder,
        view: ProgressView,
        started_s: float,
        timeouts: Timeouts,
    ) -> Context:
        """The context at the start of a run; see `Supervisor`."""
        config = program.config
        limiter = RateLimiter(
            config.learner.samples_per_insert,
            config.learner.warmup_transitions,
            config.ratio_error,
            config.insert_quantum,
            config.learner.batch_size,
        )
        records = RunStatistics(config, started_s)
        return cls(program, folder, view, records, limiter, timeouts, started_s)

    @property
    def config(self) -> Config:
        """The configuration in force; its number of actors is settled."""
        return self.program.config

    @property
    def runtime(self) -> Runtime:
        """The runtime of the parts."""
        return self.program.runtime

    @property
    def counters(self) -> Counters:
        """Counters of the run."""
        return self.records.counters

    @property
    def done(self) -> Counters:
        """A copy of the counters without the clock: equal if no work was done in between."""
        return replace(self.counters, wall_s=0.0)

    def is_mistake(self, error: Exception) -> bool:
        """Whether an error is the user's: not if the run has worked before."""
        return isinstance(error, UserError) and self.done == self.begun

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Show an event to people, and log it; see `ProgressView.notify`."""
        self.view.notify(text, level, detail)

    def wait_for(self, calls: list[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """Wait until all calls are over; those that are not after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while calls and time.monotonic() < deadline:
            ready = {id(call) for call in self.runtime.wait(calls, self.timeouts.wait_s)}
            calls = [call for call in calls if id(call) not in ready]
        return calls

    def poll_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Poll a condition until it is true; whether it was, within `timeout_s`."""
        return poll_until(condition, timeout_s, self.timeouts.poll_s)

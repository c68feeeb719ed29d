"""The stall detector: ends a run in which nothing happens, and explains which part is at fault."""

from __future__ import annotations

from common.errors import StalledError
from deploy.supervisor.context import Context
from deploy.supervisor.fleet import Fleet

NAMED_PARTS = 5
"""Parts that the error names; it stays one line with hundreds of actors."""


class StallDetector:
    """Watches the limiter for progress.

    Attributes:
        sampled_before: samples of earlier attempts of the run.
    """

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """A detector whose clock runs from the start of the run."""
        self._context = context
        self._fleet = fleet
        self.sampled_before = 0
        self._from_s = context.started_s

    def restart_clock(self, now: float) -> None:
        """Grant the whole time again, because a part was restarted."""
        self._from_s = now

    def check(self, now: float, evaluating: bool) -> None:
        """Fail if no transition was inserted and no sample drawn for too long.

        Args:
            now: `time.monotonic()`.
            evaluating: whether an evaluation is in progress.

        Raises:
            StalledError: names the side that waits, and the parts with unfinished calls.
        """
        limiter, limit_s = self._context.limiter, self._context.config.learner.stall_timeout_s
        if limit_s is None:
            return
        parts = [*self._fleet.core_parts, *self._fleet.actors]
        # Processes may take minutes to start. Once the learner has sampled, the run as a whole has
        # started: an actor that never gets ready must not hide a stall.
        sampling = limiter.sampled > self.sampled_before
        starting = not sampling and not all(slot.ready for slot in parts)
        held_up = evaluating and not self._context.runtime.parallel
        restoring = any(slot.awaiting_restore for slot in parts)  # has a limit of its own
        if starting or held_up or restoring:
            self._from_s = now
        if min(now - self._from_s, limiter.idle_s) < limit_s:
            return
        state = limiter.explain()  # before the pings, which take time
        waiting = ", ".join(self._unanswered(now)) or "none"
        raise StalledError(
            f"no transition was inserted and no sample drawn for {limit_s:g} s: {state}; parts "
            f"with unfinished calls: {waiting}; if their work takes that long, raise "
            f"learner.stall_timeout_s={limit_s:g}"
        )

    def _unanswered(self, now: float) -> list[str]:
        """Parts that may be unresponsive, each with the age of its call in flight."""
        fleet, runtime = self._fleet, self._context.runtime
        # Only other parts call these: a ping shows whether they respond.
        pings = {str(slot.part): runtime.ping(slot.handle) for slot in fleet.reconnectable.values()}
        silent = self._context.wait_for(list(pings.values()), self._context.timeouts.ping_s)
        workers = [*fleet.env_workers, fleet.learner]
        called = [(slot.called_s, str(slot.part)) for slot in workers if slot.call is not None]
        parts = [name for name, ping in pings.items() if ping in silent]
        parts += [f"{name} for {now - called_s:,.0f} s" for called_s, name in sorted(called)]
        more = len(parts) - NAMED_PARTS
        return parts if more <= 0 else [*parts[:NAMED_PARTS], f"{more} more"]

"""The health monitor: which parts are dead, and which are unresponsive.

The death of a part is the error of its own ping or call. An unresponsive part sends no heartbeat.
Every remote sends heartbeats from a separate thread, so a busy part is not unresponsive. A part
that is not ready yet may be pending placement, for which there is no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from common.config_operation import SupervisionConfig
from common.errors import RemoteDiedError, UnresponsiveError
from common.handles import Future, Handle
from deploy.runtime.interface import Runtime
from deploy.supervisor.slots import Slot
from deploy.supervisor.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class _PlacementQuestion:
    """Which parts are pending placement: asked at `asked_s`."""

    slots: list[Slot[Any]]
    handles: list[Handle]
    answer: Future[list[bool]]
    asked_s: float


class HealthMonitor:
    """Pings parts and finds those that must be restarted."""

    def __init__(
        self, runtime: Runtime, config: SupervisionConfig, timeouts: Timeouts, now: float
    ) -> None:
        """A monitor that has looked at `now` (`time.monotonic()`).

        Args:
            runtime: of the parts.
            config: limits that the user sets: `hung_after_s` without a heartbeat, `call_timeout_s`
                for a call, `start_timeout_s` until the first heartbeat; None: no limit.
            timeouts: of the supervisor.
            now: `time.monotonic()`.
        """
        self._runtime = runtime
        self._config = config
        self._timeouts = timeouts
        self._looked_s = now
        self._question: _PlacementQuestion | None = None

    def look(self, slots: Iterable[Slot[Any]], now: float) -> list[tuple[Slot[Any], Exception]]:
        """Slots whose part must be restarted, each with the reason.

        Args:
            slots: to look at.
            now: `time.monotonic()`.
        """
        slots = list(slots)
        away_s, self._looked_s = now - self._looked_s, now
        if away_s > self._timeouts.away_s:
            for slot in slots:
                slot.pinged_s += away_s
                slot.called_s += away_s
                slot.made_s += away_s
        self._take_placement_answer(now)
        found = []
        for slot in slots:
            if slot.awaiting_restore:
                continue
            error = self._error_of(slot, now)
            if error is not None:
                found.append((slot, error))
        self._ask_for_placement(slots, now)
        return found

    def _error_of(self, slot: Slot[Any], now: float) -> Exception | None:
        age_s = now - slot.called_s if slot.call is not None else 0.0
        if slot.ping is None and self._ping_is_due(slot, now, age_s):
            slot.ping, slot.pinged_s = self._runtime.ping(slot.handle), now
        if slot.ping is not None and slot.ping.done():
            ping, slot.ping = slot.ping, None
            try:
                slot.place = ping.result()
            except Exception as error:  # the part died, or its constructor failed
                return error
            if not slot.ready:
                slot.ready, slot.ready_s, slot.unreadable_from_s = True, now, math.nan
            slot.suspect = False
        # A report made it ready: its ping of before waits behind the call, and comes next.
        waited_s = now - max(slot.pinged_s, slot.ready_s)
        if slot.ping is not None and slot.ready and waited_s > self._patience_s:
            return UnresponsiveError(f"{slot.part} sent no heartbeat for {waited_s:,.0f} s")
        age_s = min(age_s, now - slot.ready_s)  # the call began after the start of the process
        limit_s = self._config.call_timeout_s
        if limit_s is not None and slot.ready and age_s > limit_s:
            return UnresponsiveError(f"{slot.part} did not finish its call within {age_s:,.0f} s")
        return self._start_error_of(slot, now)

    def _ping_is_due(self, slot: Slot[Any], now: float, call_age_s: float) -> bool:
        # Hundreds of actors are pinged only if their own report is late.
        wanted = slot.core or not slot.ready or call_age_s > self._patience_s / 2
        return (wanted and now - slot.pinged_s >= self._timeouts.heartbeat_every_s) or slot.suspect

    def _start_error_of(self, slot: Slot[Any], now: float) -> Exception | None:
        # Since the deadline, the runtime has answered that the part is not pending placement.
        asked = slot.placement_asked_s > slot.made_s
        if not self._is_late(slot, now) or slot.pending_placement or not asked:
            return None
        return UnresponsiveError(f"{slot.part} was not ready within {now - slot.made_s:,.0f} s")

    def _is_late(self, slot: Slot[Any], now: float) -> bool:
        limit_s = self._config.start_timeout_s
        return not slot.ready and limit_s is not None and now - slot.made_s > limit_s

    def _ask_for_placement(self, slots: Iterable[Slot[Any]], now: float) -> None:
        """Ask whether late parts are pending placement: one question for all, as it costs time."""
        if self._question is not None:
            return
        due = [
            slot
            for slot in slots
            if not slot.awaiting_restore
            and (
                now - slot.placement_asked_s >= self._timeouts.placement_every_s
                if slot.pending_placement
                else self._is_late(slot, now) and slot.placement_asked_s <= slot.made_s
            )
        ]
        if due:
            handles = [slot.handle for slot in due]
            answer = self._runtime.pending_placement(handles)
            self._question = _PlacementQuestion(due, handles, answer, now)

    def _take_placement_answer(self, now: float) -> None:
        """Take the answer if it has arrived; without one in time, all count as pending."""
        question = self._question
        if question is None:
            return
        pending = [True] * len(question.slots)
        if question.answer.done():
            with suppress(RemoteDiedError):
                pending = question.answer.result()
        elif now - question.asked_s > self._timeouts.placement_answer_s:
            self._runtime.cancel(question.answer)
        else:
            return
        self._question = None
        for slot, handle, waits in zip(question.slots, question.handles, pending, strict=True):
            if slot.handle is handle and not slot.ready:
                slot.pending_placement, slot.placement_asked_s = waits, now
                if waits:
                    slot.made_s = now

    @property
    def _patience_s(self) -> float:
        limit_s = self._config.hung_after_s
        return math.inf if limit_s is None else limit_s

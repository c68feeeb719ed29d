"""Places of parts that can be replaced, and how it is noticed that one has to be.

A dead part is the failure of its own call. One that hangs shows no sign of life: it does not answer
a ping, for which every remote has a thread of its own. One that is merely slow does. One that never
came up may still be waiting for a machine: only then it has all the time there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from common.errors import RemoteDiedError, UnresponsiveError
from common.handles import Future, Handle
from deploy.runtime.api import Place, Runtime

PING_EVERY_S = 0.5
"""How often parts are asked for a sign of life that only others call."""
MAX_AWAY_S = 5.0
"""If nobody looked for longer (a laptop slept, the driver was stopped), no part is to blame."""
STABLE_AFTER_S = 10.0
"""A part that lived so long has not failed at once."""


def actor_title(index: int) -> str:
    """What the slot of an actor is called."""
    return f"actor-{index}"


ASK_AGAIN_S = 30.0
"""How often it is asked of a part that waits for a machine whether it still does."""
ANSWER_S = 5.0
"""How long that question may take."""


@dataclass(slots=True, eq=False)
class Slot:
    """The place of a part that can be replaced: who sits there, and what it is at.

    Attributes:
        title: what the part is, whoever sits there.
        spawn: makes one; takes its incarnation.
        always: it is asked for signs of life even when it has no call of ours.
        made_s: when the part was made.
        call, called_s: its piece of work, and when it was given.
        leaving_s: when it was asked to leave, if it was.
        failures: replacements in a row that did no work. replaced: replacements in all.
        up: it has shown a sign of life. place: where it lives, as far as that is known.
        rate, reported_s: env steps per second by its last two reports, and when the last came.
        suspect: somebody found it dead; a ping will tell.
        homeless, asked_s: it waited for a machine to be made on, when that was last asked.
        origin: name of the checkpoint that the part was made from.
        vacant: nobody sits here: what a part begins with cannot be read. cause: why the last one
            had to go. unread_s: since when. tried_s: when it was last tried.
        progress_baseline: what the part had done when that was first heard of; None: not yet.
    """

    title: str
    spawn: Callable[[int], Handle]
    handle: Handle
    incarnation: int
    always: bool = False
    call: Future[Any] | None = None
    called_s: float = 0.0
    leaving_s: float = -math.inf
    failures: int = 0
    restarts: int = 0
    up: bool = False
    place: Place | None = None
    rate: float = math.nan
    reported_s: float = math.nan
    up_s: float = 0.0
    suspect: bool = False
    pending_placement: bool = False
    asked_s: float = 0.0
    ping: Future[Place | None] | None = None
    pinged_s: float = 0.0
    made_s: float = field(default_factory=time.monotonic)
    origin: str = ""
    awaiting_restore: bool = False
    cause: str = ""
    unread_s: float = math.nan
    tried_s: float = 0.0
    progress_baseline: int | None = None

    @property
    def name(self) -> str:
        """Of the part that sits here now."""
        return f"{self.title}-{self.incarnation}"

    def begin(self, method: str, *args: Any) -> None:
        """Give the part its next piece of work."""
        self.called_s = time.monotonic()  # first: inline, the work is done when `call` returns
        self.call = self.handle.call(method, *args)

    def renew(self, incarnation: int) -> None:
        """Another part takes the place. If it cannot be made, the place is as it was."""
        self.handle = self.spawn(incarnation)
        self.incarnation = incarnation
        self.clear()
        self.made_s = time.monotonic()
        self.awaiting_restore = False

    def clear(self) -> None:
        """Nothing is known of who sits here, or nobody does."""
        self.call = self.ping = None
        self.up = self.suspect = self.pending_placement = False
        self.place = None
        self.rate = self.reported_s = math.nan
        self.progress_baseline = None


@dataclass(frozen=True, slots=True)
class _Question:
    """Which parts wait for a machine: under way since `asked_s`."""

    slots: list[Slot]
    handles: list[Handle]
    answer: Future[list[bool]]
    asked_s: float


class HealthMonitor:
    """Looks after all slots: who is dead, who hangs."""

    def __init__(
        self,
        runtime: Runtime,
        hung_after_s: float | None,
        call_timeout_s: float | None,
        start_timeout_s: float | None,
    ) -> None:
        """Nobody is under suspicion.

        Args:
            runtime: where the parts live.
            hung_after_s: without a sign of life a part hangs; None: never.
            call_timeout_s: a piece of work that takes longer will never end; None: never.
            start_timeout_s: a part that takes longer to show its first sign of life will show
                none; None: never. Waiting for a machine is no starting.
        """
        self._runtime = runtime
        self._hung_after_s = hung_after_s
        self._call_timeout_s = call_timeout_s
        self._start_timeout_s = start_timeout_s
        self._looked_s = time.monotonic()
        self._homeless: _Question | None = None

    def look(self, slots: Iterable[Slot], now: float) -> list[tuple[Slot, Exception]]:
        """Slots whose part must be replaced, and why.

        Args:
            slots: all of them.
            now: `time.monotonic()`.
        """
        slots = list(slots)
        away_s, self._looked_s = now - self._looked_s, now
        if away_s > MAX_AWAY_S:
            for slot in slots:
                slot.pinged_s += away_s
                slot.called_s += away_s
                slot.made_s += away_s
        self._hear_who_waits(now)
        found = []
        for slot in slots:
            if slot.awaiting_restore:
                continue
            error = self._error_of(slot, now)
            if error is not None:
                found.append((slot, error))
        self._ask_who_waits(slots, now)
        return found

    def _error_of(self, slot: Slot, now: float) -> Exception | None:
        age_s = now - slot.called_s if slot.call is not None else 0.0
        if slot.ping is None:
            quiet_s = now - slot.pinged_s
            # Hundreds of actors are asked only if their own report is long in coming.
            wanted = slot.always or not slot.up or age_s > self._patience_s / 2
            if (wanted and quiet_s >= PING_EVERY_S) or slot.suspect:
                slot.ping, slot.pinged_s = self._runtime.ping(slot.handle), now
        if slot.ping is not None and slot.ping.done():
            ping, slot.ping = slot.ping, None
            try:
                slot.place = ping.result()
            except Exception as error:  # it died, or could not be made
                return error
            if not slot.up:
                slot.up, slot.up_s, slot.unread_s = True, now, math.nan
            slot.suspect = False
        if slot.ping is not None and slot.up and now - slot.pinged_s > self._patience_s:
            waited_s = now - slot.pinged_s
            return UnresponsiveError(f"{slot.title} showed no sign of life for {waited_s:,.0f} s")
        age_s = min(age_s, now - slot.up_s)  # before it was up it was not at it
        if self._call_timeout_s is not None and slot.up and age_s > self._call_timeout_s:
            return UnresponsiveError(f"{slot.title} did not answer for {age_s:,.0f} s")
        return self._start_error_of(slot, now)

    def _start_error_of(self, slot: Slot, now: float) -> Exception | None:
        # Late, and it has been heard since that it waits for no machine.
        if not self._late(slot, now) or slot.pending_placement or slot.asked_s <= slot.made_s:
            return None
        return UnresponsiveError(f"{slot.title} did not come up within {now - slot.made_s:,.0f} s")

    def _late(self, slot: Slot, now: float) -> bool:
        limit_s = self._start_timeout_s
        return not slot.up and limit_s is not None and now - slot.made_s > limit_s

    def _ask_who_waits(self, slots: Iterable[Slot], now: float) -> None:
        """Whoever is late may still wait for a machine. It costs a question: one for all."""
        if self._homeless is not None:
            return
        due = [
            slot
            for slot in slots
            if not slot.awaiting_restore
            and (
                now - slot.asked_s >= ASK_AGAIN_S
                if slot.pending_placement
                else self._late(slot, now) and slot.asked_s <= slot.made_s
            )
        ]
        if due:
            handles = [slot.handle for slot in due]
            self._homeless = _Question(due, handles, self._runtime.pending_placement(handles), now)

    def _hear_who_waits(self, now: float) -> None:
        """Take the answer, if it is there."""
        question = self._homeless
        if question is None:
            return
        waiting = [True] * len(question.slots)  # unless the answer says otherwise
        if question.answer.done():
            with suppress(RemoteDiedError):
                waiting = question.answer.result()
        elif now - question.asked_s > ANSWER_S:
            self._runtime.cancel(question.answer)
        else:
            return
        self._homeless = None
        for slot, handle, waits in zip(question.slots, question.handles, waiting, strict=True):
            if slot.handle is handle and not slot.up:
                slot.pending_placement, slot.asked_s = waits, now
                if waits:
                    slot.made_s = now

    @property
    def _patience_s(self) -> float:
        return float("inf") if self._hung_after_s is None else self._hung_after_s


def cause_of(error: Exception) -> str:
    """One line: the last of what an error says."""
    if isinstance(error, (RemoteDiedError, UnresponsiveError)):
        return str(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]

"""Slots: the places of parts, each filled by one incarnation of its part after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from common.handles import Future, Handle
from common.parts import PartId, part_name
from deploy.runtime.interface import Place

C_co = TypeVar("C_co", covariant=True)
P = ParamSpec("P")


@dataclass(slots=True, eq=False)
class Slot(Generic[C_co]):
    """A part's slot: its current incarnation, the call in flight, and its health.

    Attributes:
        part: identity of the part.
        client_type: wraps a handle of the part in typed calls.
        spawn: starts an incarnation, of the number that is passed.
        handle: of the current incarnation.
        incarnation: its number.
        core: the run cannot do without the part; it is pinged even without a call in flight.
        call, called_s: the call in flight, and the time when it was made.
        drain_from_s: time when the part was told to drain, if it was.
        consecutive_failures: failures in a row without progress between them.
        restarts: restarts in this attempt of the run.
        restarted_at: time of the last one, in seconds since the epoch; None: there was none.
        ready, ready_s: the part has sent a heartbeat, and when it sent the first one.
        place: host and process, as far as they are known.
        rate, reported_s: env steps per second by the last two reports; time of the last one.
        suspect: another part found it dead; the health monitor pings it next.
        ping, pinged_s: the ping in flight, and when it, or the last one, was sent.
        pending_placement, placement_asked_s: no node had room for the part when the runtime was
            last asked, and when that was.
        made_s: time when the current incarnation was started.
        awaiting_restore: the slot is empty, because the storage is unreadable.
        unreadable_from_s: time of the first failed restore; NaN: none has failed.
        restore_tried_s: time of the last one.
        cause: reason for the last restart, as the rest of a sentence that begins with the part's
            name: `died: …`. cause_detail: the whole error.
        progress_baseline: work of the current incarnation in its first report; None: none yet.
    """

    part: PartId
    client_type: Callable[[Handle], C_co]
    spawn: Callable[[int], Handle]
    handle: Handle
    incarnation: int
    core: bool = False
    call: Future[Any] | None = None
    called_s: float = 0.0
    drain_from_s: float = -math.inf
    consecutive_failures: int = 0
    restarts: int = 0
    restarted_at: float | None = None
    ready: bool = False
    ready_s: float = 0.0
    place: Place | None = None
    rate: float = math.nan
    reported_s: float = math.nan
    suspect: bool = False
    ping: Future[Place | None] | None = None
    pinged_s: float = 0.0
    pending_placement: bool = False
    placement_asked_s: float = 0.0
    made_s: float = field(default_factory=time.monotonic)
    awaiting_restore: bool = False
    unreadable_from_s: float = math.nan
    restore_tried_s: float = 0.0
    cause: str = ""
    cause_detail: str = ""
    progress_baseline: int | None = None

    @property
    def name(self) -> str:
        """Name of the current incarnation, as in process lists."""
        return part_name(self.part, self.incarnation)

    @property
    def client(self) -> C_co:
        """Typed calls of the current incarnation."""
        return self.client_type(self.handle)

    def begin(
        self,
        method: Callable[Concatenate[C_co, P], Future[Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Make a call, which is then the call in flight: `slot.begin(ActorClient.close)`."""
        self.called_s = time.monotonic()  # first: inline, the call is over when it returns
        self.call = method(self.client, *args, **kwargs)

    def take_outcome(self) -> Any:
        """Result of the call in flight, which is over, or the exception it raised, as a value."""
        assert self.call is not None
        call, self.call = self.call, None
        try:
            return call.result()
        except Exception as error:  # any error of an environment, or the end of the process
            return error

    def renew(self, incarnation: int) -> None:
        """Start another incarnation. If that raises, the slot is unchanged."""
        self.handle = self.spawn(incarnation)
        self.incarnation = incarnation
        self.clear()
        self.made_s = time.monotonic()
        self.awaiting_restore = False

    def clear(self) -> None:
        """Forget the state of the incarnation that filled the slot."""
        self.call = self.ping = None
        self.ready = self.suspect = self.pending_placement = False
        self.place = None
        self.rate = self.reported_s = math.nan
        self.progress_baseline = None

"""The actor autoscaler: how many actors a cluster has capacity for, and which should move."""

from __future__ import annotations

import time
from collections.abc import Iterator

from actors.client import ActorClient
from common.errors import RemoteDiedError
from common.handles import Future, Handle
from deploy.supervisor.context import Context
from deploy.supervisor.events import ActorCountDue, ActorMoveDue, Event
from deploy.supervisor.fleet import Fleet
from deploy.supervisor.slots import Slot


class ActorAutoscaler:
    """Asks the runtime at intervals; its answers are never waited for.

    Attributes:
        scattered: actors may occupy more nodes than they need.
    """

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """An autoscaler that asks one interval from now on."""
        self._context = context
        self._fleet = fleet
        self.scattered = False
        self._asked_s = self._settled_s = time.monotonic()
        self._capacity_before = context.config.actors.count
        self._capacity: Future[int] | None = None
        self._to_move: Future[Handle | None] | None = None

    def decide(self, now: float) -> Iterator[Event]:
        """Changes that are due: with `actors.count = "auto"` of the number, else of the nodes.

        Args:
            now: `time.monotonic()`.
        """
        if not self._context.runtime.autoscaling:
            return
        auto = not self._context.folder.config.actors.count
        if auto:
            count = self._count(now)
            if count is not None and count != self._context.config.actors.count:
                yield ActorCountDue(count)
        else:
            self._capacity = None  # the answer to a question that no longer matters
        slot = self.actor_to_move(now, once=auto)
        if slot is not None:
            yield ActorMoveDue(slot)

    def _count(self, now: float) -> int | None:
        """How many actors there should be; None until there is an answer."""
        fleet, timeouts = self._fleet, self._context.timeouts
        if self._capacity is None and now - self._asked_s >= timeouts.autoscale_every_s:
            self._asked_s = now
            workers = [*fleet.env_workers, *fleet.draining, *fleet.flushing]
            starting = sum(not s.ready and now - s.made_s < timeouts.actor_start_s for s in workers)
            handles = [slot.handle for slot in workers]
            self._capacity = self._context.runtime.capacity(handles, starting)
        if self._capacity is None or not self._capacity.done():
            return None
        answer, self._capacity = self._capacity, None
        try:
            capacity = answer.result()
        except RemoteDiedError:
            return None  # asked again
        # Two answers must agree on fewer actors: resources of a part that exited are free later.
        before, self._capacity_before = self._capacity_before, capacity
        count = self._context.config.actors.count  # the pool may still grow to it
        return capacity if capacity >= count else min(count, max(capacity, before))

    def actor_to_move(self, now: float, once: bool) -> Slot[ActorClient] | None:
        """After a shrink: an actor that should move, so that the cluster can release its node.

        Actors move one at a time, and only as long as that empties a node.

        Args:
            now: `time.monotonic()`.
            once: ask for no second one; with `auto` another actor would take the free capacity.
        """
        if not self.scattered:
            return None
        fleet, interval_s = self._fleet, self._context.timeouts.autoscale_every_s
        if self._to_move is None:
            removing = fleet.draining or fleet.flushing
            if removing or not all(slot.ready for slot in fleet.actors):
                self._settled_s = now
            elif now - self._settled_s >= interval_s:  # Ray notices with a delay which parts exited
                handles = [slot.handle for slot in fleet.env_workers]
                self._to_move = self._context.runtime.consolidate(handles)
            return None
        if not self._to_move.done():
            return None
        answer, self._to_move = self._to_move, None
        self._settled_s = now
        try:
            handle = answer.result()
        except RemoteDiedError:
            return None  # asked again
        self.scattered = handle is not None and not once
        return next((slot for slot in fleet.actors if slot.handle is handle), None)

"""The actor pool: adds and removes actors during a run, without losing what they hold.

A removed actor finishes its call (draining), stores its last transitions (flushing), and exits.
"""

from __future__ import annotations

import time

from actors.client import ActorClient
from deploy.supervisor.context import Context
from deploy.supervisor.fleet import Fleet, actor_slot
from deploy.supervisor.slots import Slot

GROWTH_PER_TICK = 50
"""Actors that one tick of the loop adds: a remote takes a few milliseconds to request."""


class ActorPool:
    """Changes the number and the nodes of the fleet's actors."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """A pool of the actors that the fleet has."""
        self._context = context
        self._fleet = fleet

    def resize(self) -> None:
        """Add or remove actors, up or down to the configured number."""
        context, count = self._context, self._context.config.actors.count
        self.grow()
        idle = self._shrink(count)
        self._set_actor_count()
        context.records.resize(context.config)
        for slot in idle:
            if slot.ready or not context.runtime.autoscaling:
                self.flush(slot)
            else:  # pending placement: it holds nothing
                context.runtime.kill(slot.handle)

    def grow(self) -> None:
        """Add missing actors, up to `GROWTH_PER_TICK`; the loop handles the rest between two calls.

        A removed index gets a new incarnation: no random stream repeats.
        """
        fleet, program = self._fleet, self._context.program
        count = min(self._context.config.actors.count, len(fleet.actors) + GROWTH_PER_TICK)
        for index in range(len(fleet.actors), count):
            incarnation = max(fleet.retired.get(index, -1) + 1, program.incarnation)
            handle = program.spawn_actor(index, incarnation)
            slot = actor_slot(program, index, handle, incarnation)
            fleet.actors.append(slot)
            fleet.idle.append(slot)

    def _shrink(self, count: int) -> list[Slot[ActorClient]]:
        """Remove the actors of the greatest indices; those among them without a call in flight."""
        fleet, idle = self._fleet, []
        while len(fleet.actors) > count:
            slot = fleet.actors.pop()
            fleet.retired[len(fleet.actors)] = slot.incarnation
            if self._remove(slot):
                idle.append(slot)
        return idle

    def move(self, slot: Slot[ActorClient]) -> None:
        """Replace an actor by another of its index; the runtime places it on another node."""
        fleet, program = self._fleet, self._context.program
        index, incarnation = fleet.actors.index(slot), slot.incarnation + 1
        handle = program.spawn_actor(index, incarnation)
        successor = actor_slot(program, index, handle, incarnation)
        successor.restarts = slot.restarts
        fleet.actors[index] = successor
        fleet.idle.append(successor)
        if self._remove(slot):
            self.flush(slot)

    def _remove(self, slot: Slot[ActorClient]) -> bool:
        """Give a removed actor no more work; whether it was idle. Otherwise it drains."""
        slot.drain_from_s = time.monotonic()
        if slot in self._fleet.idle:
            self._fleet.idle.remove(slot)
            return True
        self._fleet.draining.append(slot)
        return False

    def _set_actor_count(self) -> None:
        """Tell all actors their number, by which each takes its part of the ladder of ε."""
        count = self._context.config.actors.count  # the pool may still grow to it
        for slot in self._fleet.actors:
            slot.client.set_actor_count(count)

    def flush(self, slot: Slot[ActorClient]) -> None:
        """Have a removed actor store its last transitions."""
        self._fleet.flushing.append(slot)
        slot.begin(ActorClient.close)
        if not self._context.runtime.parallel:
            self._settle_flushing(slot)

    def drained(self, slot: Slot[ActorClient], failed: bool) -> None:
        """The last call of a draining actor is over: flush it, unless it failed."""
        self._fleet.draining.remove(slot)
        if failed:
            self._context.runtime.kill(slot.handle)
        else:
            self.flush(slot)

    def settle(self, done: set[int]) -> None:
        """Take in what flushing actors stored.

        Args:
            done: ids of futures that are done.
        """
        for slot in list(self._fleet.flushing):
            if slot.call is not None and id(slot.call) in done:
                self._settle_flushing(slot)

    def _settle_flushing(self, slot: Slot[ActorClient]) -> None:
        context, outcome = self._context, slot.take_outcome()
        self._fleet.flushing.remove(slot)
        if not isinstance(outcome, Exception):
            context.limiter.end_insert(0, outcome)
            context.counters.transitions += outcome
        elif context.is_mistake(outcome):
            raise outcome
        context.runtime.kill(slot.handle)

    def kill_late(self, now: float) -> None:
        """Kill draining and flushing actors that miss their deadline."""
        context, fleet = self._context, self._fleet
        for slot in [*fleet.draining, *fleet.flushing]:
            # The call in flight may have begun long before the actor was removed.
            if now - max(slot.called_s, slot.drain_from_s) <= context.timeouts.drain_s:
                continue
            if slot in fleet.draining:
                context.limiter.end_insert(context.config.insert_quantum, 0)
                fleet.draining.remove(slot)
            else:
                fleet.flushing.remove(slot)
            context.runtime.kill(slot.handle)

    def begin_attempt(self, incarnation: int) -> None:
        """Inline: start all actors again, with this incarnation."""
        fleet = self._fleet
        fleet.idle.clear()
        fleet.retired.clear()
        for slot in fleet.actors:
            slot.renew(incarnation)
            fleet.idle.append(slot)

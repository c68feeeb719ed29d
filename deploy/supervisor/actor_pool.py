"""All actors of a run: who is idle, who joins, who leaves."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from common.handles import Handle
from deploy.supervisor.slots import Slot, actor_title

if TYPE_CHECKING:  # it imports torch; see deploy.launch.run
    from deploy.program import Program


class ActorPool:
    """Slots of the actors. Their number may change while the run goes on.

    Attributes:
        slots: of those who act, by index.
        idle: of those, who has no work.
        leaving: who goes as soon as the work it has is done.
        closing: who has no more work, and hands in what it has before it goes.
    """

    def __init__(self, program: Program) -> None:
        """All actors of the program, idle."""
        self._program = program
        first = program.incarnation
        self.slots = [
            self._slot(index, handle, first) for index, handle in enumerate(program.actors)
        ]
        self.idle = deque(self.slots)
        self.leaving: list[Slot] = []
        self.closing: list[Slot] = []
        self._left: dict[int, int] = {}  # the last incarnation of an index that was given up

    def _slot(self, index: int, handle: Handle, incarnation: int) -> Slot:
        return Slot(
            actor_title(index), partial(self._program.spawn_actor, index), handle, incarnation
        )

    @property
    def incarnation(self) -> int:
        """The greatest there ever was."""
        incarnations = [slot.incarnation for slot in self.slots]
        return max([self._program.incarnation, *incarnations, *self._left.values()])

    def grow(self, count: int) -> None:
        """Up to `count` actors. An index that was there before repeats none of its streams."""
        for index in range(len(self.slots), count):
            incarnation = max(self._left.get(index, -1) + 1, self._program.incarnation)
            slot = self._slot(index, self._program.spawn_actor(index, incarnation), incarnation)
            self.slots.append(slot)
            self.idle.append(slot)

    def shrink(self, count: int) -> list[Slot]:
        """Down to `count` actors: those of the greatest indices leave; of them, who was idle."""
        idle = []
        while len(self.slots) > count:
            slot = self.slots.pop()
            self._left[len(self.slots)] = slot.incarnation
            if self._leaves_idle(slot):
                idle.append(slot)
        return idle

    def move(self, slot: Slot) -> bool:
        """Another actor of the same index takes over, elsewhere; whether this one was idle."""
        index, incarnation = self.slots.index(slot), slot.incarnation + 1
        handle = self._program.spawn_actor(index, incarnation)
        self.slots[index] = self._slot(index, handle, incarnation)
        self.slots[index].restarts = slot.restarts
        self.idle.append(self.slots[index])
        return self._leaves_idle(slot)

    def _leaves_idle(self, slot: Slot) -> bool:
        """Whether one that was to leave has no work to end first."""
        slot.leaving_s = time.monotonic()
        if slot in self.idle:
            self.idle.remove(slot)
            return True
        self.leaving.append(slot)
        return False

    def set_actor_count(self) -> None:
        """Tell everybody how many there are: each has its share of the ladder of ε."""
        for slot in self.slots:
            slot.handle.call("set_actor_count", len(self.slots))

    def new_attempt(self, incarnation: int) -> None:
        """Inline: everybody anew."""
        self.idle.clear()
        self._left.clear()
        for slot in self.slots:
            slot.renew(incarnation)
            self.idle.append(slot)

    @property
    def all(self) -> list[Slot]:
        """Everybody, those included who are on their way out."""
        return [*self.slots, *self.leaving, *self.closing]

    def forget(self, slot: Slot) -> None:
        """It is gone, or will be."""
        for group in (self.leaving, self.closing):
            if slot in group:
                group.remove(slot)

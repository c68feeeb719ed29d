"""All actors of a run: who is idle, who joins, who leaves."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from common.handles import Handle
from deploy.supervisor.slots import Seat, actor_title

if TYPE_CHECKING:  # it imports torch; see deploy.launch.run
    from deploy.program import Program


class Crew:
    """Seats of the actors. Their number may change while the run goes on.

    Attributes:
        seats: of those who act, by index.
        idle: of those, who has no work.
        leaving: who goes as soon as the work it has is done.
        closing: who has no more work, and hands in what it has before it goes.
    """

    def __init__(self, program: Program) -> None:
        """All actors of the program, idle."""
        self._program = program
        first = program.incarnation
        self.seats = [
            self._seat(index, handle, first) for index, handle in enumerate(program.actors)
        ]
        self.idle = deque(self.seats)
        self.leaving: list[Seat] = []
        self.closing: list[Seat] = []
        self._left: dict[int, int] = {}  # the last incarnation of an index that was given up

    def _seat(self, index: int, handle: Handle, incarnation: int) -> Seat:
        return Seat(
            actor_title(index), partial(self._program.spawn_actor, index), handle, incarnation
        )

    @property
    def incarnation(self) -> int:
        """The greatest there ever was."""
        incarnations = [seat.incarnation for seat in self.seats]
        return max([self._program.incarnation, *incarnations, *self._left.values()])

    def grow(self, count: int) -> None:
        """Up to `count` actors. An index that was there before repeats none of its streams."""
        for index in range(len(self.seats), count):
            incarnation = max(self._left.get(index, -1) + 1, self._program.incarnation)
            seat = self._seat(index, self._program.spawn_actor(index, incarnation), incarnation)
            self.seats.append(seat)
            self.idle.append(seat)

    def shrink(self, count: int) -> list[Seat]:
        """Down to `count` actors: those of the greatest indices leave; of them, who was idle."""
        idle = []
        while len(self.seats) > count:
            seat = self.seats.pop()
            self._left[len(self.seats)] = seat.incarnation
            if self._leaves_idle(seat):
                idle.append(seat)
        return idle

    def move(self, seat: Seat) -> bool:
        """Another actor of the same index takes over, elsewhere; whether this one was idle."""
        index, incarnation = self.seats.index(seat), seat.incarnation + 1
        handle = self._program.spawn_actor(index, incarnation)
        self.seats[index] = self._seat(index, handle, incarnation)
        self.seats[index].replaced = seat.replaced
        self.idle.append(self.seats[index])
        return self._leaves_idle(seat)

    def _leaves_idle(self, seat: Seat) -> bool:
        """Whether one that was to leave has no work to end first."""
        seat.leaving_s = time.monotonic()
        if seat in self.idle:
            self.idle.remove(seat)
            return True
        self.leaving.append(seat)
        return False

    def redeal(self) -> None:
        """Tell everybody how many there are: each has its share of the ladder of ε."""
        for seat in self.seats:
            seat.handle.call("redeal", len(self.seats))

    def begin_life(self, incarnation: int) -> None:
        """Inline: everybody anew."""
        self.idle.clear()
        self._left.clear()
        for seat in self.seats:
            seat.renew(incarnation)
            self.idle.append(seat)

    @property
    def all(self) -> list[Seat]:
        """Everybody, those included who are on their way out."""
        return [*self.seats, *self.leaving, *self.closing]

    def forget(self, seat: Seat) -> None:
        """It is gone, or will be."""
        for group in (self.leaving, self.closing):
            if seat in group:
                group.remove(seat)

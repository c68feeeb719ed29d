"""How many actors there is room for on a cluster, and who should live elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from common.errors import RemoteDiedError
from common.handles import Future, Handle
from deploy.runtime.api import Runtime
from deploy.supervisor.actor_pool import ActorPool
from deploy.supervisor.slots import Slot

LOOK_EVERY_S = 5.0
"""How often it is looked how much room there is, or who should live elsewhere."""
STARTING_S = 60.0
"""An actor that is not up for so long is taken to wait for room, no longer to start."""


class Room:
    """Asks the cluster now and then; nobody waits for its answers.

    Attributes:
        scattered: actors live on more machines than they need, perhaps.
    """

    def __init__(self, runtime: Runtime, count: int) -> None:
        """`count`: of the actors at the start."""
        self._runtime = runtime
        self.scattered = False
        self._asked_s = self._settled_s = time.monotonic()
        self._before = count  # what was answered last
        self._answer: Future[int] | None = None
        self._mover: Future[Handle | None] | None = None

    def count(self, now: float, pool: ActorPool, players: Sequence[Slot]) -> int | None:
        """With `actors.count = "auto"`: how many actors there should be; None: no answer yet.

        Args:
            now: `time.monotonic()`.
            pool: the actors.
            players: everybody with environments, those on their way out included.
        """
        if self._answer is None and now - self._asked_s >= LOOK_EVERY_S:
            self._asked_s = now
            starting = sum(not s.up and now - s.made_s < STARTING_S for s in players)
            self._answer = self._runtime.capacity([slot.handle for slot in players], starting)
        if self._answer is None or not self._answer.done():
            return None
        answer, self._answer = self._answer, None
        try:
            room = answer.result()
        except RemoteDiedError:
            return None  # asked again
        # Fewer only if that was seen twice: what a part held that has left is free a bit later.
        before = len(pool.slots)
        count = room if room >= before else min(before, max(room, self._before))
        self._before = room
        return count

    def forget(self) -> None:
        """Whatever is answered now is the answer to an old question."""
        self._answer = None

    def mover(
        self, now: float, pool: ActorPool, players: Sequence[Slot], once: bool
    ) -> Slot | None:
        """Where there were more actors: who is to live elsewhere, so that a node gets empty.

        One at a time, and only as long as that empties a node; the cluster then lets it go.

        Args:
            now: `time.monotonic()`.
            pool: the actors.
            players: actors and evaluator.
            once: no second one is asked for: with `auto` another actor takes the room.
        """
        if not self.scattered:
            return None
        if self._mover is None:
            settled = not pool.leaving and not pool.closing and all(s.up for s in pool.slots)
            if not settled:
                self._settled_s = now
            elif now - self._settled_s >= LOOK_EVERY_S:  # Ray takes a moment to see who left
                self._mover = self._runtime.consolidate([slot.handle for slot in players])
            return None
        if not self._mover.done():
            return None
        answer, self._mover = self._mover, None
        self._settled_s = now
        try:
            handle = answer.result()
        except RemoteDiedError:
            return None  # asked again
        self.scattered = handle is not None and not once
        return next((slot for slot in pool.slots if slot.handle is handle), None)

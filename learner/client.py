"""Typed calls of the learner, which may live in another process."""

from __future__ import annotations

from dataclasses import dataclass

from common.handles import Future, Handle
from common.parts import PartId
from common.types import Array, LearnerReport


@dataclass(frozen=True, slots=True)
class LearnerClient:
    """Calls the methods of a `Learner` and returns futures of their results."""

    handle: Handle

    def train(self, steps: int) -> Future[LearnerReport]:
        """See `Learner.train`."""
        return self.handle.call("train", steps)

    def publish(self) -> Future[None]:
        """See `Learner.publish`."""
        return self.handle.call("publish")

    def state(self) -> Future[Array]:
        """See `Learner.state`."""
        return self.handle.call("state")

    def new_attempt(self, incarnation: int) -> Future[None]:
        """See `Learner.new_attempt`."""
        return self.handle.call("new_attempt", incarnation)

    def reconnect(self, part: PartId, handle: Handle) -> Future[None]:
        """See `Learner.reconnect`."""
        return self.handle.call("reconnect", part, handle)

"""Typed calls of actors and evaluators, which may live in other processes."""

from __future__ import annotations

from dataclasses import dataclass

from common.handles import Future, Handle
from common.parts import PartId
from common.types import ActorReport, EvaluationReport


@dataclass(frozen=True, slots=True)
class ActorClient:
    """Calls the methods of an `Actor` and returns futures of their results."""

    handle: Handle

    def collect(self, vector_steps: int, run_env_steps: int) -> Future[ActorReport]:
        """See `Actor.collect`."""
        return self.handle.call("collect", vector_steps, run_env_steps)

    def set_actor_count(self, actors: int) -> Future[None]:
        """See `Actor.set_actor_count`."""
        return self.handle.call("set_actor_count", actors)

    def reconnect(self, part: PartId, handle: Handle) -> Future[None]:
        """See `Actor.reconnect`."""
        return self.handle.call("reconnect", part, handle)

    def close(self) -> Future[int]:
        """See `Actor.close`."""
        return self.handle.call("close")


@dataclass(frozen=True, slots=True)
class EvaluatorClient:
    """Calls the methods of an `Evaluator` and returns futures of their results."""

    handle: Handle

    def evaluate(self, slice_s: float) -> Future[EvaluationReport | None]:
        """See `Evaluator.evaluate`."""
        return self.handle.call("evaluate", slice_s)

    def reconnect(self, part: PartId, handle: Handle) -> Future[None]:
        """See `Evaluator.reconnect`."""
        return self.handle.call("reconnect", part, handle)

    def close(self) -> Future[None]:
        """See `Evaluator.close`."""
        return self.handle.call("close")

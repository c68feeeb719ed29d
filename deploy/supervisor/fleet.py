"""The fleet: the slots of all parts of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from actors.client import ActorClient, EvaluatorClient
from common.handles import Handle
from common.parts import CONTROL_SERVICE, EVALUATOR, LEARNER, WEIGHT_STORE, PartId, actor, shard
from common.weights import WeightStoreClient
from deploy.control.service_client import ControlServiceClient
from deploy.supervisor.slots import Slot
from learner.client import LearnerClient
from replay_server.shard_client import ShardClient

if TYPE_CHECKING:  # it imports torch; see deploy.launch.run
    from deploy.program import Program


class Spawns(Protocol):
    """Starts core parts; each method takes the incarnation's number."""

    def weight_store(self, incarnation: int) -> Handle:
        """Start the weight store."""
        ...

    def shard(self, index: int, incarnation: int) -> Handle:
        """Start a shard."""
        ...

    def learner(self, incarnation: int) -> Handle:
        """Start the learner."""
        ...

    def control_service(self, incarnation: int) -> Handle:
        """Start the control service."""
        ...


@dataclass
class Fleet:
    """Slots by role. The pieces of the supervisor share it.

    Attributes:
        weight_store, shards, learner: one slot for each part that the program consists of.
        control_service: on a cluster only.
        evaluator: None until the first evaluation.
        actors: slots of the actors, by index.
        idle: the slots among them without a call in flight, in the order in which they get work.
        draining: removed actors whose last call is in flight.
        flushing: removed actors that store their last transitions.
        retired: last incarnation of each actor index that was removed.
    """

    weight_store: Slot[WeightStoreClient]
    shards: list[Slot[ShardClient]]
    learner: Slot[LearnerClient]
    control_service: Slot[ControlServiceClient] | None = None
    evaluator: Slot[EvaluatorClient] | None = None
    actors: list[Slot[ActorClient]] = field(default_factory=list)
    idle: deque[Slot[ActorClient]] = field(default_factory=deque)
    draining: list[Slot[ActorClient]] = field(default_factory=list)
    flushing: list[Slot[ActorClient]] = field(default_factory=list)
    retired: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, spawns: Spawns) -> Fleet:
        """The fleet of a program that has just been built; its actors are idle.

        Args:
            program: all parts.
            spawns: starts further incarnations of the core parts.
        """
        first = program.incarnation
        service = None
        if program.runtime.autoscaling:  # other machines of a cluster have no run folder
            handle = spawns.control_service(first)
            service = Slot(
                CONTROL_SERVICE, ControlServiceClient, spawns.control_service, handle, first, True
            )
        actors = [
            actor_slot(program, index, handle, first) for index, handle in enumerate(program.actors)
        ]
        return cls(
            weight_store=Slot(
                WEIGHT_STORE,
                WeightStoreClient,
                spawns.weight_store,
                program.weight_store,
                first,
                True,
            ),
            shards=[
                Slot(shard(i), ShardClient, partial(spawns.shard, i), handle, first, True)
                for i, handle in enumerate(program.shards)
            ],
            learner=Slot(LEARNER, LearnerClient, spawns.learner, program.learner, first, True),
            control_service=service,
            actors=actors,
            idle=deque(actors),
        )

    @property
    def core_parts(self) -> list[Slot[Any]]:
        """All slots but those of parts with environments."""
        service = [self.control_service] if self.control_service is not None else []
        return [self.weight_store, *self.shards, self.learner, *service]

    @property
    def env_workers(self) -> list[Slot[Any]]:
        """Slots of parts with environments: actors and evaluator, without removed actors."""
        return [*self.actors, *([self.evaluator] if self.evaluator else [])]

    @property
    def all_actors(self) -> list[Slot[ActorClient]]:
        """Slots of all actors, those included that drain or flush."""
        return [*self.actors, *self.draining, *self.flushing]

    @property
    def reconnectable(self) -> dict[PartId, Slot[Any]]:
        """Slots of the parts that other parts call, by part: weight store and shards."""
        return {slot.part: slot for slot in chain([self.weight_store], self.shards)}

    @property
    def max_incarnation(self) -> int:
        """The greatest incarnation of any part but the evaluator, removed actors included."""
        slots = [*self.core_parts, *self.actors]
        return max([*(slot.incarnation for slot in slots), *self.retired.values()])

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        for index, shard_slot in enumerate(self.shards):
            assert shard_slot.part == shard(index), shard_slot.part
        for index, slot in enumerate(self.actors):
            assert slot.part == actor(index), slot.part
        actors, idle = set(self.actors), set(self.idle)
        assert idle <= actors, "only actors that are not removed get work"
        assert len(idle) == len(self.idle), "each at most once"
        assert all(slot.call is None for slot in idle)
        removed = [*self.draining, *self.flushing]
        assert len(set(removed)) == len(removed)
        assert not actors & set(removed)
        assert self.evaluator is None or self.evaluator.part == EVALUATOR


def actor_slot(program: Program, index: int, handle: Handle, incarnation: int) -> Slot[ActorClient]:
    """The slot of an actor."""
    spawn: Callable[[int], Handle] = partial(program.spawn_actor, index)
    return Slot(actor(index), ActorClient, spawn, handle, incarnation)

"""Identity of the parts of a run: a role, and an index where a role has several parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a part does. The value is the word in names, messages and tables."""

    WEIGHT_STORE = "weight-store"
    SHARD = "shard"
    LEARNER = "learner"
    ACTOR = "actor"
    EVALUATOR = "evaluator"
    CONTROL_SERVICE = "control-service"


NUMBERED = (Role.SHARD, Role.ACTOR)
"""Roles that several parts of a run have; their parts have an index."""


@dataclass(frozen=True, slots=True, order=True)
class PartId:
    """One part of a run, whichever process fills its slot.

    `str` gives the name for messages, tables and process lists: `shard-0`, `learner`.

    Attributes:
        role: what the part does.
        index: its number, 0 … count−1; 0 where a role has one part only.
    """

    role: Role
    index: int = 0

    def __str__(self) -> str:
        return f"{self.role}-{self.index}" if self.role in NUMBERED else str(self.role)


WEIGHT_STORE = PartId(Role.WEIGHT_STORE)
LEARNER = PartId(Role.LEARNER)
EVALUATOR = PartId(Role.EVALUATOR)
CONTROL_SERVICE = PartId(Role.CONTROL_SERVICE)


def shard(index: int) -> PartId:
    """The shard of that index."""
    return PartId(Role.SHARD, index)


def actor(index: int) -> PartId:
    """The actor of that index."""
    return PartId(Role.ACTOR, index)


def part_name(part: PartId, incarnation: int) -> str:
    """Name of one incarnation of a part, in process lists and errors: `actor-3-65536`."""
    return f"{part}-{incarnation}"

"""Events: what the pieces of the supervisor tell the loop, which tells the pieces concerned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.client import ActorClient
from common.parts import PartId
from common.types import EvaluationReport, LearnerReport
from deploy.supervisor.slots import Slot


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A part's own call failed: the part must be restarted."""

    slot: Slot[Any]
    error: Exception


@dataclass(frozen=True, slots=True)
class PartLost:
    """The incarnation that filled a slot is gone, and with it the results of its calls."""

    slot: Slot[Any]


@dataclass(frozen=True, slots=True)
class PartRestarted:
    """A slot is filled again."""

    slot: Slot[Any]


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A part reports that it found other parts dead."""

    slot: Slot[Any]
    parts: list[PartId]


@dataclass(frozen=True, slots=True)
class Reconnected:
    """A part was given the handle of a restarted part."""

    slot: Slot[Any]


@dataclass(frozen=True, slots=True)
class LearnerReported:
    """A report of the learner's; it is not in the statistics yet."""

    report: LearnerReport


@dataclass(frozen=True, slots=True)
class ActorDrained:
    """The last call of a removed actor is over."""

    slot: Slot[ActorClient]
    failed: bool


@dataclass(frozen=True, slots=True)
class BestScore:
    """An evaluation has the best score so far."""

    report: EvaluationReport


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """A checkpoint is on disk."""


@dataclass(frozen=True, slots=True)
class AttemptBegun:
    """Inline: the run continues as after a resume, with parts of this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class ActorCountDue:
    """The cluster has capacity for another number of actors."""

    count: int


@dataclass(frozen=True, slots=True)
class ActorMoveDue:
    """An actor should run on another node, so that the cluster can release its own."""

    slot: Slot[ActorClient]


Event = (
    CallFailed
    | PartLost
    | PartRestarted
    | Unreachable
    | Reconnected
    | LearnerReported
    | ActorDrained
    | BestScore
    | CheckpointWritten
    | AttemptBegun
    | ActorCountDue
    | ActorMoveDue
)

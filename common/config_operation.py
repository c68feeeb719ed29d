"""The tables of the configuration on how a run is operated; see `common.config_sections`."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from common.config_sections import Section

MIN_HUNG_AFTER_S = 2.0
"""Shortest limit on Ray: a heartbeat takes up to 0.6 s and two of its intervals to be seen."""
HEARTBEATS_BEFORE_HUNG = 8
MAX_HEARTBEAT_EVERY_S = 5.0


class CheckpointConfig(Section):
    """When and where the state of the run is saved."""

    every_learner_steps: int | None = Field(
        5_000,
        ge=1,
        description="learner steps between them, in one process: the clock must not decide what "
        "is learned; on Ray where every_s is none",
    )
    every_s: float | None = Field(60.0, gt=0, description="on Ray: seconds between them")
    exact: bool = Field(
        False,
        description="in one process: a resumed run repeats the uninterrupted one bit for bit; "
        "each checkpoint then ends every episode",
    )
    keep: int = Field(3, ge=1, description="newest checkpoints to keep")
    replay: bool = Field(
        True,
        description="save the replay memory too; false on a resume: start with an empty one",
    )
    storage: str | None = Field(
        None,
        min_length=1,
        description='a folder, or a URL that fsspec knows ("s3://your-bucket/runs"), in which the '
        "run gets a folder of its name; none: the run folder. On a cluster all nodes must reach it",
    )
    timeout_s: float | None = Field(
        600.0,
        gt=0,
        description="on Ray: seconds after which an unfinished checkpoint has failed; none: never",
    )
    on_failure: Literal["continue", "stop"] = Field(
        "continue", description="what the run does when a checkpoint cannot be written"
    )


class SupervisionConfig(Section):
    """When the supervisor gives up a part and replaces it."""

    hung_after_s: float | None = Field(
        60.0,
        gt=0,
        description="seconds without a heartbeat from its process, on Ray at least 2; none: never",
    )
    call_timeout_s: float | None = Field(
        600.0,
        gt=0,
        description="seconds that one call may take, whatever the heartbeat of its process; none: "
        "for ever",
    )
    start_timeout_s: float | None = Field(
        600.0,
        gt=0,
        description="seconds until the first heartbeat of a part that starts, not counting its "
        "wait for a node; none: for ever",
    )

    @property
    def heartbeat_every_s(self) -> float:
        """Interval of heartbeats during a long call: so short that several fit into the limit."""
        limit_s = math.inf if self.hung_after_s is None else self.hung_after_s
        return min(max(limit_s, MIN_HUNG_AFTER_S) / HEARTBEATS_BEFORE_HUNG, MAX_HEARTBEAT_EVERY_S)


class PlacementConfig(Section):
    """Resources that parts ask of a cluster's nodes; without a cluster they have no effect."""

    shards: Literal["near", "spread"] = Field(
        "near",
        description='"near": on the learner\'s node as far as they fit; "spread": over all nodes',
    )
    shard_cpus: float = Field(1.0, ge=0, description="CPUs that each shard takes up")
    actor_cpus: float = Field(1.0, gt=0, description="CPUs that each actor takes up")
    wait_s: float = Field(
        900.0, gt=0, description="seconds that learner and shards wait for nodes with room"
    )


class SecurityConfig(Section):
    """Access to the processes of a run."""

    allow_no_token: bool = Field(
        False,
        description="on this machine: with RAY_AUTH_MODE=disabled, start a Ray that every user of "
        "the machine can run code in",
    )


class ReportConfig(Section):
    """Metrics and the live view."""

    every_s: float = Field(1.0, gt=0, description="seconds between lines of metrics.jsonl")
    replay_every_s: float = Field(
        10.0, gt=0, description="seconds between statistics of the replay memory in such lines"
    )

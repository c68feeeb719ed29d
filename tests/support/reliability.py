"""What the tests of reliability share: options of runs, and what a run left on disk."""

from __future__ import annotations

from pathlib import Path

from common.checkpoint import CheckpointStore
from common.storage import open_storage
from support.program import TINY_OPTIONS, reports_in

NO_GOAL = ("--stop.score", "none")
INLINE = (
    *("cartpole", "--inline", "--json", *TINY_OPTIONS, *NO_GOAL, "--replay.shards", "2"),
    *("--checkpoint.every-learner-steps", "60", "--checkpoint.exact", "true"),
    *("--stop.learner-steps", "400"),
    *("--evaluation.every-learner-steps", "200"),
)
ON_RAY = (
    *("cartpole", "--json", *TINY_OPTIONS, *NO_GOAL),
    *("--replay.shards", "2", "--replay.capacity", "20000", "--checkpoint.every-s", "1"),
    *("--evaluation.every-learner-steps", "1000000"),
)
RECOVERY_S = 30.0


def store_in(run: Path) -> CheckpointStore:
    """The checkpoints of a run."""
    return CheckpointStore(open_storage(str(run / "checkpoints")), 3)


def restarts_in(run: Path) -> int:
    """Restarts by the newest report."""
    return reports_in(run)[-1]["restarts"]

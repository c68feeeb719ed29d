"""The summary of a run in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_line(summary: Mapping[str, Any]) -> str:
    """`stopped by learner_steps after 2.6 s: score 9 (3 episodes, ε = 0), 506 env steps, …`."""
    score = "none yet"
    if summary["score"] is not None:
        episodes, epsilon = summary["score_episodes"], summary["score_epsilon"]
        how = f"{episodes} episodes, ε = {epsilon:g}" if episodes else "from before the resume"
        score = f"{summary['score']:g} ({how})"
    return (
        f"stopped by {summary['stop_reason']} after {summary['wall_s']:.1f} s: score {score}, "
        f"{summary['env_steps']:,} env steps, {summary['learner_steps']:,} learner steps"
    )

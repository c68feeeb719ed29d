"""The summary of a run in one line, and its stop reason in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.text import counted

FAILED = "failed"
"""Stop reason of a run that an error ended; the summary has it as `error`."""
ABORTED = "aborted"
"""Stop reason of a run that ended without a last checkpoint, because of a second signal."""
_WORDS = {
    "interrupted": "interrupted (SIGINT)",
    "terminated": "terminated (SIGTERM or SIGHUP)",
    ABORTED: "stopped at once by a second signal",
}


def reason_in_words(stop_reason: str) -> str:
    """`wall_s` → `stop.wall_s reached`, `interrupted` → `interrupted (SIGINT)`."""
    return _WORDS.get(stop_reason, f"stop.{stop_reason} reached")


def summary_line(summary: Mapping[str, Any]) -> str:
    """`ended after 2.6 s: stop.learner_steps reached; score 9 (3 episodes, ε = 0), 506 env …`."""
    score = "none yet"
    if summary["score"] is not None:
        episodes, epsilon = summary["score_episodes"], summary["score_epsilon"]
        how = (
            f"{counted(episodes, 'episode')}, ε = {epsilon:g}"
            if episodes
            else "from before the resume"
        )
        score = f"{summary['score']:g} ({how})"
    return (
        f"ended after {summary['wall_s']:.1f} s: {reason_in_words(summary['stop_reason'])}; "
        f"score {score}, {counted(summary['env_steps'], 'env step')}, "
        f"{counted(summary['learner_steps'], 'learner step')}"
    )

"""The numbers of a report, for programs: `raydqn report --json`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, stdev
from typing import Any

from deploy.reporting.aggregate import CONFIDENCE, Aggregate
from deploy.reporting.comparison import Overall
from deploy.reporting.groups import Group, Task
from deploy.reporting.human_scores import normalised


def numbers_of(tasks: Sequence[Task], overall: Sequence[Overall]) -> dict[str, Any]:
    """Scores and statistics of all groups by task, and over all games.

    Args:
        tasks: see `groups.tasks_of`.
        overall: see `comparison.overall_of`.
    """
    return {
        "confidence": CONFIDENCE,
        "tasks": [
            {
                "task": task.name,
                "env_id": task.env_id,
                "protocol": dict(task.protocol),
                "groups": [_group(group, task) for group in task.groups],
            }
            for task in tasks
        ],
        "human_normalised": [
            {
                "label": one.label,
                "games": one.games,
                "runs_left_out": dict(one.left_out),
                **_statistics(one.aggregate),
            }
            for one in overall
        ],
    }


def _group(group: Group, task: Task) -> dict[str, Any]:
    found, scores, runs = group.aggregate(), group.scores, group.counted
    game = task.game
    return {
        "label": group.label,
        "runs": [str(run.path) for run in runs],
        "seeds": [run.config.seed for run in runs],
        "unfinished": group.is_unfinished,
        "episodes": [len(run.fresh or ()) or run.config.evaluation.episodes for run in runs],
        "scores": scores,
        "std": stdev(scores) if len(scores) > 1 else None,
        "std_over": "seeds",
        **(_statistics(found) if found is not None else {}),
        "human_normalised": [normalised(game, score) for score in scores] if game else None,
        "env_steps": [run.env_steps for run in runs],
        "env_steps_median": median(run.env_steps for run in runs) if runs else None,
        "wall_s": [run.wall_s for run in runs],
        "wall_s_median": median(run.wall_s for run in runs) if runs else None,
        "bests": [run.best for run in runs],
        "remarks": group.remarks,
    }


def _statistics(found: Aggregate) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, one in (("mean", found.mean), ("median", found.median), ("iqm", found.iqm)):
        values[name] = one.value
        values[f"{name}_interval"] = list(one.interval) if one.interval is not None else None
    return values

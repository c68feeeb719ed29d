"""Groups of runs that differ in nothing but their seed: only they are averaged.

A task is what the score is measured on: the environment and how its episodes are played. A group
is one configuration on one task; its seeds are its sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.config import Config
from common.types import Array
from deploy.reporting.aggregate import Aggregate, of_one_task
from deploy.reporting.curves import Band, Curve, band
from deploy.reporting.human_scores import atari_game
from deploy.reporting.run_record import RunRecord

OPERATION = frozenset({"checkpoint", "supervision", "placement", "report", "security"})
"""Tables of the configuration that decide nothing about what is learnt or how it is scored."""
TASK_KEYS = ("id", "kwargs", "wrappers", "sticky_actions", "frame_skip", "noop_max",
             "max_episode_frames")  # fmt: skip
"""Keys of `env` that belong to the task; others are the agent's view of it."""
TASK_EVALUATION = ("epsilon", "max_episode_steps")
"""Keys of `evaluation` that belong to the task."""
MANY_GROUPS = 6
"""More groups than this are ordered by their means."""
NAMED = 3
"""Differing keys that a label names."""


@dataclass(frozen=True, slots=True)
class Given:
    """A run to report on, and what its study calls it.

    Attributes:
        run: as it was read.
        variant: its name in a study; empty: it has none.
        source: the study or group of runs that it is of, where these are compared; else empty.
    """

    run: RunRecord
    variant: str = ""
    source: str = ""


@dataclass(slots=True)
class Group:
    """Runs of one configuration on one task.

    Attributes:
        label: names the group within its task.
        runs: all of them, by seed.
        counted: those whose scores count.
        remarks: on runs that do not count, and on what differs besides the seed.
        values: of the configuration, by key, without the seed and tables of operation.
        source: see `Given`.
    """

    label: str
    runs: list[RunRecord]
    counted: list[RunRecord]
    remarks: list[str]
    values: Mapping[str, Any]
    source: str = ""

    @property
    def scores(self) -> list[float]:
        """The score of each run that counts."""
        return [run.score for run in self.counted if run.score is not None]

    @property
    def is_unfinished(self) -> bool:
        """Whether its scores are of runs that have not reached a stop condition."""
        return any(run.state != "complete" for run in self.counted)

    def aggregate(self) -> Aggregate | None:
        """Statistics over the scores of its runs; None: none has a score."""
        return of_one_task(self.scores) if self.scores else None

    def curves(self, over: str) -> list[Curve]:
        """A curve for each run that counts.

        Args:
            over: `env_steps`, `wall_s` or `learner_steps`.
        """
        return [curve_of(run, over) for run in self.counted]

    def band(self, over: str) -> Band | None:
        """The band over the curves of its runs; see `curves`."""
        return band(self.curves(over))


@dataclass(slots=True)
class Task:
    """An environment, and how its episodes are played and scored.

    Attributes:
        name: of the environment, with what differs from other tasks on it.
        env_id: of the environment.
        game: its name in the table of human scores; None: it is not there.
        protocol: what the scores depend on.
        groups: one per configuration.
    """

    name: str
    env_id: str
    game: str | None
    protocol: Mapping[str, Any]
    groups: list[Group] = field(default_factory=list)


def curve_of(run: RunRecord, over: str) -> Curve:
    """The evaluations of a run over its env steps, seconds or learner steps."""
    x: Array = np.maximum.accumulate(getattr(run.scores, over))
    return Curve(x, run.scores.score, max(float(getattr(run, over)), float(x[-1])))


def tasks_of(given: Sequence[Given]) -> list[Task]:
    """Tasks in the order in which their first runs are given, with their groups."""
    by_task: dict[str, list[Given]] = {}
    for one in given:
        by_task.setdefault(_task_key(one.run), []).append(one)
    tasks = [_task(members) for members in by_task.values()]
    _tell_apart(tasks, list(by_task))
    return tasks


def _task(members: Sequence[Given]) -> Task:
    by_group: dict[str, list[Given]] = {}
    for one in members:
        values = values_of(one.run)
        key = json.dumps([one.source, values], sort_keys=True, default=str)
        by_group.setdefault(key, []).append(one)
    groups = [_group(few) for few in by_group.values()]
    _label(groups, list(by_group.values()))
    if len(groups) > MANY_GROUPS:  # a search, say: the best first
        groups.sort(key=lambda group: -_mean(group.scores))
    recorded = [one.run.protocol for one in members if one.run.state != "running"]
    protocol = max(recorded or [members[0].run.protocol], key=len)
    env_id = members[0].run.config.env.id
    return Task(env_id, env_id, atari_game(env_id, protocol), protocol, groups)


def _mean(scores: Sequence[float]) -> float:
    """The mean; −∞ of no scores."""
    return float(np.mean(scores)) if scores else -math.inf


def _group(members: Sequence[Given]) -> Group:
    runs = sorted((one.run for one in members), key=lambda run: (run.config.seed, run.name))
    counted, remarks = _counted(runs)
    for what, found in (
        ("versions", {json.dumps(a.get("versions"), sort_keys=True)
                      for run in runs for a in run.attempts[:1]}),
        ("machines", {json.dumps(a.get("machine"), sort_keys=True)
                      for run in runs for a in run.attempts[:1]}),
        ("protocols", {json.dumps(run.protocol, sort_keys=True, default=str)
                       for run in runs if run.state == "complete"}),
    ):  # fmt: skip
        if len(found) > 1:
            remarks.append(f"its runs had different {what}: see below")
    return Group("", runs, counted, remarks, values_of(runs[0]), members[0].source)


def _counted(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The runs whose scores count, one per seed, and a remark on each other one."""
    remarks: list[str] = []
    scored = []
    for run in runs:
        if run.score is None:
            remarks.append(f"{run.name} has no score: {run.ending}")
        else:
            scored.append(run)
    complete = [run for run in scored if run.state == "complete"]
    counted: dict[int, RunRecord] = {}
    for run in scored:
        if complete and run.state != "complete":
            remarks.append(f"{run.name} does not count: {run.ending}")
        elif run.config.seed in counted:
            other = counted[run.config.seed].name
            remarks.append(f"{run.name} does not count: it has the seed of {other}")
        else:
            counted[run.config.seed] = run
    if scored and not complete:
        remarks.append("no run has reached a stop condition: the numbers are of unfinished runs")
    return list(counted.values()), remarks


def values_of(run: RunRecord) -> dict[str, Any]:
    """The configuration by key, without the seed and what decides nothing about the result."""
    values = _flat(run.config)
    modes = [str(attempt.get("mode")) for attempt in run.attempts]
    if modes:
        values["runtime"] = "one process" if modes[0].startswith("one process") else "Ray"
    return values


def _flat(config: Config) -> dict[str, Any]:
    found = {}
    for section, table in config.model_dump(mode="json").items():
        if section in OPERATION or not isinstance(table, Mapping):
            continue
        found.update({f"{section}.{key}": value for key, value in table.items()})
    found["checkpoint.exact"] = config.checkpoint.exact
    return found


def _task_key(run: RunRecord) -> str:
    return json.dumps(_task_values(run.config), sort_keys=True, default=str)


def _task_values(config: Config) -> dict[str, Any]:
    env, evaluation = config.env.model_dump(mode="json"), config.evaluation.model_dump(mode="json")
    return {
        **{f"env.{key}": env[key] for key in TASK_KEYS},
        **{f"evaluation.{key}": evaluation[key] for key in TASK_EVALUATION},
    }


def differing(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all tables, in the order of the first one."""
    keys = list(dict.fromkeys(key for table in tables for key in table))
    return [
        key
        for key in keys
        if len({json.dumps(table.get(key), sort_keys=True, default=str) for table in tables}) > 1
    ]


def _tell_apart(tasks: Sequence[Task], keys: Sequence[str]) -> None:
    """Name what differs between tasks on the same environment."""
    for name in {task.env_id for task in tasks}:
        same = [(t, json.loads(key)) for t, key in zip(tasks, keys, strict=True)
                if t.env_id == name]  # fmt: skip
        different = differing([values for _, values in same])
        for task, values in same if different else ():
            task.name = f"{name} ({in_words(values, different)})"


def _label(groups: Sequence[Group], members: Sequence[Sequence[Given]]) -> None:
    """Name each group: as its study does, or by the keys that differ from other groups.

    A source with a single group gives it its name alone.
    """
    different = differing([group.values for group in groups])
    given = [_only({one.variant for one in few}) for few in members]
    sources = [group.source for group in groups]
    for group, variant in zip(groups, given, strict=True):
        if group.source and sources.count(group.source) == 1:
            group.label = group.source
            continue
        unique = variant and given.count(variant) == 1
        keys = in_words(group.values, different) if different and not unique else ""
        group.label = ": ".join(filter(None, (group.source, variant, keys)))
        group.label = group.label or "one configuration"
    labels = [group.label for group in groups]
    for number, group in enumerate(groups, 1):
        if labels.count(group.label) > 1:  # its keys beyond the first few differ
            group.label = f"{group.label} (configuration {number})"


def _only(names: Iterable[str]) -> str | None:
    found = list(names)
    return found[0] if len(found) == 1 and found[0] else None


def in_words(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """`learner.n_step = 1, learner.gamma = 0.9, 2 more`."""
    named = [f"{key} = {shown(values.get(key))}" for key in keys[:NAMED]]
    more = len(keys) - NAMED
    return ", ".join([*named, *([f"{more} more"] if more > 0 else [])])


def shown(value: Any) -> str:
    """A value of the configuration as TOML shows it, about."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def by_name(path: Path) -> str:
    """The name of a folder, also where its path is a dot."""
    return path.resolve().name

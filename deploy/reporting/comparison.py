"""Groups side by side: differences, and whether their intervals overlap."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from common.text import counted
from deploy.reporting.aggregate import (
    Aggregate,
    Estimate,
    difference_of_means,
    estimate,
    of_tasks,
    probability_of_improvement,
)
from deploy.reporting.groups import NAMED, Group, Task, differing, in_words
from deploy.reporting.human_scores import normalised
from deploy.reporting.words import joined

MAX_PAIRS = 45
"""Of more pairs, only those with the best group are shown."""
OF_THE_GAME = ("env.id", "stop.score", "protocol.env", "protocol.actions")
"""Keys of the configuration and the protocol that follow from the game, or are on its scale."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two groups of one task.

    Attributes:
        first, second: their labels; the first has the higher mean.
        difference: of their means.
        improvement: probability that a run of the first scores above one of the second.
        means_apart: whether the intervals of their means do not overlap; None: one has no interval.
        iqms_apart: likewise of their interquartile means.
    """

    first: str
    second: str
    difference: Estimate
    improvement: float
    means_apart: bool | None
    iqms_apart: bool | None


def pairs_of(task: Task) -> tuple[list[Pair], bool]:
    """All pairs of groups that have scores, and whether pairs were left out."""
    groups = [(group, found) for group in task.groups if (found := group.aggregate()) is not None]
    groups.sort(key=lambda one: -one[1].mean.value)
    chosen = list(combinations(groups, 2))
    cut = len(chosen) > MAX_PAIRS
    if cut:
        chosen = [(groups[0], other) for other in groups[1:]]
    return [_pair(*first, *second) for first, second in chosen], cut


def _pair(first: Group, mine: Aggregate, second: Group, others: Aggregate) -> Pair:
    return Pair(
        first.label,
        second.label,
        estimate([first.scores, second.scores], difference_of_means),
        probability_of_improvement(first.scores, second.scores),
        mine.mean.is_apart_from(others.mean),
        mine.iqm.is_apart_from(others.iqm),
    )


@dataclass(frozen=True, slots=True)
class Overall:
    """Human-normalised scores of one method over several games.

    Attributes:
        label: of the method.
        games: names of its games.
        aggregate: over equally many runs of each game.
        left_out: number of runs by game that the aggregate leaves out; empty: none.
    """

    label: str
    games: list[str]
    aggregate: Aggregate
    left_out: Mapping[str, int]


@dataclass(slots=True)
class _Method:
    """One configuration on one protocol: the groups of its games, by game."""

    values: Mapping[str, Any]
    groups: dict[str, Group] = field(default_factory=dict)
    is_ambiguous: bool = False


def overall_of(tasks: Sequence[Task]) -> tuple[list[Overall], list[str]]:
    """Aggregates of configurations that have runs of two Atari games at the least.

    Groups are of one configuration if their source, protocol and all keys but `OF_THE_GAME` are
    equal.

    Returns:
        The aggregates, and a sentence on each thing that no aggregate counts.
    """
    methods: dict[str, _Method] = {}
    for task in tasks:
        for group in task.groups:
            if task.game is None or not group.scores:
                continue
            protocol = {f"protocol.{key}": value for key, value in task.protocol.items()}
            values = {key: value for key, value in {**group.values, **protocol}.items()
                      if key not in OF_THE_GAME}  # fmt: skip
            key = json.dumps([group.source, values], sort_keys=True, default=str)
            method = methods.setdefault(key, _Method(values))
            method.is_ambiguous |= task.game in method.groups  # the same game by another id
            method.groups[task.game] = group
    several = [one for one in methods.values() if len(one.groups) > 1 and not one.is_ambiguous]
    found = [_overall(one, label) for one, label in zip(several, _labels(several), strict=True)]
    return found, [
        *_remarks(list(methods.values()), len(several)),
        *filter(None, map(_on_runs, found)),
    ]


def _overall(method: _Method, label: str) -> Overall:
    runs = {
        game: {run.config.seed: normalised(game, run.score)
               for run in group.counted if run.score is not None}
        for game, group in method.groups.items()
    }  # fmt: skip
    number = min(map(len, runs.values()))
    shared = set.intersection(*map(set, runs.values()))
    scores = [
        [game[seed] for seed in sorted(game, key=lambda seed: (seed not in shared, seed))[:number]]
        for game in runs.values()
    ]
    left_out = {game: len(found) - number for game, found in runs.items() if len(found) > number}
    return Overall(label, list(runs), of_tasks(scores), left_out)


def _labels(methods: Sequence[_Method]) -> list[str]:
    """A name for each: of its groups if they share one, else its source; never one name twice."""
    names = []
    for method in methods:
        groups = list(method.groups.values())
        labels = {group.label for group in groups}
        names.append(labels.pop() if len(labels) == 1 else groups[0].source or "one configuration")
    different = _differing(methods)
    longer = [
        f"{name} ({in_words(method.values, different)})" if names.count(name) > 1 else name
        for name, method in zip(names, methods, strict=True)
    ]
    return [
        f"{name} (configuration {number})" if longer.count(name) > 1 else name
        for number, name in enumerate(longer, 1)
    ]


def _differing(methods: Sequence[_Method]) -> list[str]:
    """Keys of the configuration that differ; of the protocol where none of these does."""
    different = differing([method.values for method in methods])
    return [key for key in different if not key.startswith("protocol.")] or different


def _remarks(methods: Sequence[_Method], aggregated: int) -> Iterator[str]:
    """A sentence on the methods without aggregate, if there are runs of several games."""
    games = {game for method in methods for game in method.groups}
    left = len(methods) - aggregated
    if len(games) > 1 and left:
        different = _differing(methods)
        keys = f" (they differ in {joined(different[:NAMED])}"
        keys += f" and {len(different) - NAMED} more)" if len(different) > NAMED else ")"
        yield (
            f"{counted(left, 'configuration')} not averaged over games: only runs that are equal "
            f"but for game and seed are{keys if different else ''}"
        )


def _on_runs(one: Overall) -> str:
    """The runs that an aggregate leaves out; empty: none."""
    if not one.left_out:
        return ""
    runs = joined([f"{counted(number, 'run')} of {game}" for game, number in one.left_out.items()])
    return (
        f"{one.label}: the aggregate leaves out {runs}, because each game counts with as many "
        "runs as the game with the fewest, those of seeds that all games share first"
    )

"""Groups side by side: differences, and whether their intervals overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from deploy.reporting.aggregate import (
    Aggregate,
    Estimate,
    difference_of_means,
    estimate,
    of_tasks,
    probability_of_improvement,
)
from deploy.reporting.groups import Group, Task
from deploy.reporting.human_scores import normalised

MAX_PAIRS = 45
"""Of more pairs, only those with the best group are shown."""


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
        aggregate: over all of its runs.
    """

    label: str
    games: list[str]
    aggregate: Aggregate


def overall_of(tasks: Sequence[Task]) -> list[Overall]:
    """Each label, or source, that has runs of two Atari games at the least."""
    found = list(_overall(tasks, lambda group: group.label))
    return found or list(_overall(tasks, lambda group: group.source or "all runs"))


def _overall(tasks: Sequence[Task], name: Callable[[Group], str]) -> Iterator[Overall]:
    by_name: dict[str, dict[str, list[float]]] = {}
    ambiguous: set[str] = set()
    for task in tasks:
        for group in task.groups:
            if task.game is None or not group.scores:
                continue
            scores = [normalised(task.game, score) for score in group.scores]
            games = by_name.setdefault(name(group), {})
            if task.game in games:  # two configurations of one game are not one method
                ambiguous.add(name(group))
            games[task.game] = scores
    for label, games in by_name.items():
        if len(games) > 1 and label not in ambiguous:
            yield Overall(label, list(games), of_tasks(list(games.values())))

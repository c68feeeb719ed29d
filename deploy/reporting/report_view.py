"""A report as its templates show it: texts, tables and figures, before HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from common.config_toml import to_toml
from common.text import counted
from deploy.reporting import figures, words
from deploy.reporting.aggregate import Aggregate, Estimate
from deploy.reporting.bounded import mean_bounds
from deploy.reporting.comparison import Overall, Pair, pairs_of
from deploy.reporting.groups import MANY_GROUPS, Group, Task, differing, shown
from deploy.reporting.human_scores import normalised
from deploy.reporting.protocol import explain
from deploy.reporting.run_record import RunRecord

COVERAGE = {2: 50, 3: 75, 4: 80, 5: 84, 6: 86, 7: 87, 8: 88, 9: 89}
"""How often, in per cent, a 95 % interval of so few normal values holds their true mean."""

ONE_SEED = "Each line is a single seed. A score holds until the next evaluation."
SEVERAL_SEEDS = (
    "Thick: mean over seeds, and the 95 % bootstrap interval over seeds as a band; thin: each "
    "seed. A score holds until the next evaluation."
)
PACES_DIFFER = 1.1
"""Ratio of env steps per learner step, from one group to another, that is no chance."""
MAX_CUTS = 4
"""Groups whose ends a caption names."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table, and its interval in words; empty: it has none."""

    value: str
    interval: str = ""

    @classmethod
    def of(cls, estimate: Estimate, digits: int | None = None) -> Cell:
        """An estimate in words."""
        if digits is None:
            digits = words.digits_for(estimate.value, estimate.low, estimate.high)
        return cls(words.score(estimate.value, digits), words.interval(estimate, digits))


@dataclass(slots=True)
class GroupView:
    """A row of the table of scores, and what is known of its runs; texts but `runs`."""

    label: str
    colour: str
    dash: str
    seeds: str
    count: int
    mean: Cell | None
    median: Cell | None
    iqm: Cell | None
    normalised: Cell | None
    env_steps: str
    wall: str
    remarks: list[str]
    bounds: str
    command: str
    versions: str
    machines: list[str]
    hosts: int
    devices: str
    runs: list[list[str]]


@dataclass(slots=True)
class FigureView:
    """A figure: its name in a file, its title, its text alternative, and its caption."""

    name: str
    title: str
    alternative: str
    caption: str
    lines: list[figures.Line]
    over: str

    def draw(self) -> Figure:
        """The figure; it is drawn anew each time."""
        return figures.draw(self.lines, self.over)

    @property
    def inline(self) -> str:
        """SVG for a page."""
        return figures.to_inline_svg(self.draw(), self.alternative, len(self.lines))

    @property
    def file(self) -> str:
        """SVG for a file."""
        return figures.to_svg(self.draw())


@dataclass(slots=True)
class TaskView:
    """A task of the report; `film` is filled in later, `no_film` says why there is none."""

    name: str
    anchor: str
    score: str
    has_normalised: bool
    protocol: list[tuple[str, str]]
    sentences: list[str]
    groups: list[GroupView]
    figures: list[FigureView]
    differences: list[list[str]]
    pairs: list[list[str]]
    pairs_cut: bool
    config: str
    config_of: str
    film: bytes | None = None
    film_caption: str = ""
    no_film: str = ""


@dataclass(slots=True)
class ReportView:
    """A whole report."""

    title: str
    made: str
    version: str
    summary: str
    compare: bool
    problems: list[tuple[str, str]]
    tasks: list[TaskView]
    overall: list[tuple[str, str, Cell, Cell, Cell]]
    overall_pairs: list[str]
    studies: list[tuple[str, str]]
    numbers: dict[str, Any]


def task_view(task: Task, number: int, compare: bool) -> TaskView:
    """A task in words and figures.

    Args:
        task: see `groups.tasks_of`.
        number: of the task in the report, from 1 on.
        compare: whether its groups are compared.
    """
    first = next((g.counted[0] for g in task.groups if g.counted), task.groups[0].runs[0])
    evaluation = first.config.evaluation
    pairs, cut = pairs_of(task) if compare else ([], False)
    return TaskView(
        name=task.name,
        anchor=f"task-{number}",
        score=_score_in_words(task),
        has_normalised=task.game is not None,
        protocol=[(name, shown(value)) for name, value in task.protocol.items()],
        sentences=explain(task.protocol, evaluation.epsilon, evaluation.max_episode_steps),
        groups=[_group_view(group, task, n) for n, group in enumerate(task.groups)],
        figures=[view for over in _drawn_over(task) if (view := _figure(task, number, over))],
        differences=_differences(task),
        pairs=[_pair_row(pair) for pair in pairs],
        pairs_cut=cut,
        config=to_toml(first.config),
        config_of=first.name,
    )


def _score_in_words(task: Task) -> str:
    counting = [run for group in task.groups for run in group.counted]
    fresh = {len(run.fresh) for run in counting if run.fresh}
    if fresh:
        return (
            f"The score of a run is the mean return of {_episodes(fresh)}, played for this report "
            "with the weights of its best evaluation and with seeds that the run did not use."
        )
    if not counting:
        return "No run has a score."
    episodes = _episodes({run.config.evaluation.episodes for run in counting})
    text = (
        f"The score of a run is the mean return of its last evaluation ({episodes} with the "
        "weights of that time), not of its best one."
    )
    if any(run.ending == "stop.score reached" for run in counting):
        text += (
            " Runs that end when an evaluation reaches stop.score are scored by that very "
            "evaluation, which flatters them a little: raydqn report --episodes 100 plays others."
        )
    return text


def _episodes(numbers: set[int]) -> str:
    """`100 episodes`, `20 and 100 episodes`."""
    if len(numbers) == 1:
        return counted(min(numbers), "episode")
    return words.joined(f"{number:,}" for number in sorted(numbers)) + " episodes"


def _group_view(group: Group, task: Task, number: int) -> GroupView:
    found, normal = group.aggregate(), None
    if task.game is not None and found is not None:
        game = task.game
        mean, ends = found.mean, found.mean.interval
        # The transformation is linear and rising: it maps the ends of the interval, too.
        low, high = (normalised(game, end) for end in ends) if ends else (None, None)
        normal = Cell.of(Estimate(normalised(game, mean.value), low, high, mean.count), 3)
    runs = group.counted or group.runs
    attempts = [attempt for run in runs for attempt in run.attempts]
    machines = dict.fromkeys(
        words.machine_text(attempt["machine"])
        for attempt in attempts
        if isinstance(attempt.get("machine"), dict)
    )
    bounds = mean_bounds([run.bounds for run in runs if run.bounds is not None])
    versions = [a["versions"] for a in attempts if isinstance(a.get("versions"), dict)]
    return GroupView(
        label=group.label,
        colour=figures.colour_of(number, len(task.groups)),
        dash=figures.DASHES[number % len(figures.DASHES)],
        seeds=words.seeds_text({run.config.seed for run in group.counted}),
        count=len(group.counted),
        mean=Cell.of(found.mean) if found else None,
        median=Cell.of(found.median) if found else None,
        iqm=Cell.of(found.iqm) if found else None,
        normalised=normal,
        env_steps=_median_and_range(
            [run.env_steps for run in group.counted], lambda v: f"{v:,.0f}"
        ),
        wall=_median_and_range([run.wall_s for run in group.counted], words.duration),
        remarks=[*_on_seeds(group), *group.remarks],
        bounds=bounds.in_words() if bounds is not None else "",
        command=_command(runs[0]),
        versions=words.versions_text(versions),
        machines=list(machines),
        hosts=max(run.hosts for run in runs),
        devices=words.joined(dict.fromkeys(run.device for run in runs if run.device))
        if any(run.device for run in runs)
        else "",
        runs=[_run_row(run, run in group.counted) for run in group.runs],
    )


def _on_seeds(group: Group) -> list[str]:
    count = len(group.counted)
    if count == 1:
        return ["one seed: no interval, no band; other seeds may differ a lot"]
    if count in COVERAGE:
        return [
            f"{counted(count, 'seed')}: the 95 % interval of so few holds the true mean in about "
            f"{COVERAGE[count]} % of cases (of normal scores)"
        ]
    return []


def _median_and_range(values: Sequence[float], text: Any) -> str:
    """`113,294 (57,237 to 217,458)`."""
    if not values:
        return words.NONE
    middle = text(median(values))
    low, high = text(min(values)), text(max(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def _command(run: RunRecord) -> str:
    command = run.attempts[0].get("command") if run.attempts else None
    if isinstance(command, str) and command:
        return words.command_text(command)
    return f"raydqn train --config config.toml --seed {run.config.seed}"


def _run_row(run: RunRecord, counts: bool) -> list[str]:
    """Name, seed, how it ended, score, best evaluation, env steps, learner steps, time, remarks."""
    return [
        run.name,
        str(run.config.seed),
        run.ending if counts else f"{run.ending} (does not count)",
        words.score(run.score),
        words.score(run.best),
        f"{run.env_steps:,}",
        f"{run.learner_steps:,}",
        words.duration(run.wall_s),
        "; ".join(run.remarks),
    ]


def _drawn_over(task: Task) -> list[str]:
    """Env steps and seconds; learner steps too where groups learn at different paces."""
    paces = [
        median(run.env_steps / run.learner_steps for run in group.counted)
        for group in task.groups
        if group.counted and all(run.learner_steps for run in group.counted)
    ]
    differ = bool(paces) and max(paces) > PACES_DIFFER * min(paces)
    return ["env_steps", "wall_s", *(["learner_steps"] if differ else [])]


def _figure(task: Task, number: int, over: str) -> FigureView | None:
    """The curves of a task over env steps or seconds; None: no run has a score."""
    lines = [figures.Line(group.curves(over), group.band(over)) for group in task.groups]
    if not any(line.curves for line in lines):
        return None
    label = figures.LABELS[over]
    texts, cuts = [], []
    for group, line in zip(task.groups, lines, strict=True):
        band = line.band
        if band is None:
            texts.append(f"{group.label}: no place that all runs have in common")
            continue
        end = f"{band.x[-1]:,.0f} {label}"
        low_high = ""
        if band.low is not None and band.high is not None:
            ends = f"{words.score(float(band.low[-1]))} to {words.score(float(band.high[-1]))}"
            low_high = f" ({ends})"
        texts.append(f"{group.label}: {words.score(float(band.mean[-1]))}{low_high} at {end}")
        if band.is_cut:
            cuts.append(f"{group.label} at {band.x[-1]:,.0f} of {band.longest:,.0f} {label}")
    caption = ONE_SEED if all(len(line.curves) <= 1 for line in lines) else SEVERAL_SEEDS
    if cuts:
        caption += " Mean and band end with the shortest run"
        caption += f": {'; '.join(cuts)}." if len(cuts) <= MAX_CUTS else "."
    title = f"Score over {label}"
    return FigureView(
        f"curves-{number}-{over.removesuffix('_s').replace('_', '-')}",
        title,
        f"{title}, {task.name}. {'; '.join(texts)}.",
        caption,
        lines,
        over,
    )


def _differences(task: Task) -> list[list[str]]:
    """A header and a row per key that differs between the groups; empty: none does.

    Of many groups, each has a row.
    """
    tables = [group.values for group in task.groups]
    keys = differing(tables)
    if not keys:
        return []
    if len(tables) > MANY_GROUPS:
        rows = [
            [group.label, *(shown(group.values.get(key)) for key in keys)] for group in task.groups
        ]
        return [["configuration", *keys], *rows]
    header = ["key", *(group.label for group in task.groups)]
    return [header, *([key, *(shown(table.get(key)) for table in tables)] for key in keys)]


def _pair_row(pair: Pair) -> list[str]:
    """The two labels, their difference with its interval, P(improvement), and two verdicts."""
    return [
        pair.first,
        pair.second,
        words.score(pair.difference.value),
        words.interval(pair.difference) or "no interval",
        f"{pair.improvement:.2f}",
        _verdict(pair.means_apart),
        _verdict(pair.iqms_apart),
    ]


def _verdict(apart: bool | None) -> str:
    if apart is None:
        return "no interval: one seed"
    return "do not overlap" if apart else "overlap"


def overall_rows(found: Sequence[Overall]) -> list[tuple[str, str, Cell, Cell, Cell]]:
    """Human-normalised scores over several games: label, games, mean, median, IQM."""
    return [_overall_row(one) for one in found]


def overall_sentences(found: Sequence[Overall]) -> list[str]:
    """For each pair of methods, whether their intervals overlap; only over the same games."""
    sentences = []
    for first, second in combinations(found, 2):
        names = f"{first.label} and {second.label}"
        if set(first.games) != set(second.games):
            sentences.append(f"{names} are not compared: their games are not the same.")
            continue
        mine, other = first.aggregate, second.aggregate
        means = _verdict(mine.mean.is_apart_from(other.mean))
        iqms = _verdict(mine.iqm.is_apart_from(other.iqm))
        sentences.append(f"{names}: intervals of the means {means}, of the IQMs {iqms}.")
    return sentences


def _overall_row(one: Overall) -> tuple[str, str, Cell, Cell, Cell]:
    found: Aggregate = one.aggregate
    cells = (Cell.of(found.mean, 3), Cell.of(found.median, 3), Cell.of(found.iqm, 3))
    return (one.label, ", ".join(one.games), *cells)

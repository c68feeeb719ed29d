"""Progress of a study: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.text import counted, printable
from deploy.reporting.slow_trials import SlowTrials, slow_trials
from deploy.reporting.view import duration, number
from deploy.runs.study_folder import STATUSES, StudyRecord, TrialRecord

PLAIN_EVERY_S = 30.0
"""Seconds without a line, until plain output says how far the study is."""
MAX_ROWS = 30
"""Trials in the live table."""
ORDER = ("running", "failed", "finished", "stopped", "pending")
"""The order of trials in the live table."""


class StudyProgress(Protocol):
    """Shows the progress of a study."""

    def update(self, record: StudyRecord) -> None:
        """Show the trials as they are now."""
        ...

    def notify(self, text: str) -> None:
        """Show a line."""
        ...

    def close(self) -> None:
        """End: the study is over, or interrupted."""
        ...


def make_study_view(stream: TextIO | None = None) -> StudyProgress:
    """A view that fits the stream."""
    stream = stream or sys.stdout
    return LiveStudyView(stream) if stream.isatty() else PlainStudyView(stream)


class PlainStudyView:
    """Prints a line for each trial that begins or ends, and one with the totals now and then."""

    def __init__(self, stream: TextIO) -> None:
        """A view that prints to `stream`."""
        self._stream = stream
        self._seen: dict[str, str] = {}
        self._slow = SlowTrials()
        self._slow_before: Set[str] = frozenset()
        self._last_s = time.monotonic()

    def update(self, record: StudyRecord) -> None:
        """Print what has changed."""
        is_first = not self._seen
        for trial in record.trials:
            before = self._seen.get(trial.name)
            self._seen[trial.name] = trial.status
            if before != trial.status and not (is_first or trial.status == "pending"):
                self.notify(trial_line(trial))
                self._last_s = time.monotonic()
        slow = self._slow.look(record)
        for name in slow.keys() - self._slow_before:
            self.notify(f"{name}: {slow[name]}")
        self._slow_before = slow.keys()
        if time.monotonic() - self._last_s >= PLAIN_EVERY_S:
            self._last_s = time.monotonic()
            running = [trial_line(trial) for trial in record.trials if trial.status == "running"]
            self.notify("; ".join([totals(record), *running[:4]]))

    def notify(self, text: str) -> None:
        """Print the line."""
        with suppress(BrokenPipeError):  # the reader has ended (`| head`), the study has not
            print(printable(text), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to close."""


class LiveStudyView:
    """Redraws one table in place."""

    def __init__(self, stream: TextIO) -> None:
        """A table on `stream`, a terminal."""
        self._live = Live(
            console=Console(file=stream), auto_refresh=False, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        self._slow = SlowTrials()

    def update(self, record: StudyRecord) -> None:
        """Redraw the table. It appears before the first trial, so that early errors stay plain."""
        if not self._live.is_started:
            self._live.start()
        table = study_table(record, MAX_ROWS, self._slow.look(record))
        self._live.update(table, refresh=True)

    def notify(self, text: str) -> None:
        """Print the line above the table."""
        self._live.console.print(printable(text), markup=False, highlight=False)

    def close(self) -> None:
        """Stop redrawing; the last table stays."""
        self._live.stop()


def show_study(record: StudyRecord, console: Console | None = None) -> None:
    """Print all trials of a study, and the totals."""
    console = console or Console()
    console.print(study_table(record, slow=slow_trials(record)))
    for trial in record.trials:
        if trial.error:
            text = printable(f"{trial.name}: {trial.error}")
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def study_table(
    record: StudyRecord, limit: int | None = None, slow: Mapping[str, str] | None = None
) -> Group:
    """A table of the trials, and a line with the totals below.

    Args:
        record: the study.
        limit: number of rows; those that run come first. None: all, in their order.
        slow: see `slow_trials`; each is a line at the end.
    """
    trials = record.trials
    if limit is not None and len(trials) > limit:
        trials = sorted(trials, key=lambda trial: ORDER.index(trial.status))[:limit]
    table = Table(box=None, pad_edge=False)
    names = ["trial", "status", "env steps", "score", "best", "wall"]
    if any(trial.parameters for trial in trials):
        names.append("sample")
    for name in names:
        is_text = name in ("trial", "status", "sample")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "sample")
    for trial in trials:
        cells = [
            printable(trial.name),
            trial.status,
            f"{trial.env_steps:,}",
            number(trial.score),
            number(trial.best_score),
            duration(trial.wall_s),
            printable(_sample(trial)),
        ]
        table.add_row(*map(Text, cells[: len(names)]))
    hidden = len(record.trials) - len(trials)
    if hidden:
        table.add_row(f"… and {counted(hidden, 'trial')} more")
    lines = [totals(record), *(f"{name}: {text}" for name, text in (slow or {}).items())]
    return Group(table, *(Text(printable(line)) for line in lines))


def _sample(trial: TrialRecord) -> str:
    """`learning_rate=0.00031 batch_size=64`."""
    return " ".join(
        f"{key.rpartition('.')[2]}={value:.4g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]}={value}"
        for key, value in trial.parameters.items()
    )


def trial_line(trial: TrialRecord) -> str:
    """`cartpole-s1: finished after 0:12; score 492.1 (best 495.0), 60,000 env steps`."""
    if not trial.env_steps:
        return ": ".join(filter(None, (trial.name, trial.status, trial.error)))
    numbers = (
        f"score {number(trial.score)} (best {number(trial.best_score)}), "
        f"{counted(trial.env_steps, 'env step')}"
    )
    text = f"{trial.name}: {trial.status} after {duration(trial.wall_s)}; {numbers}"
    return f"{text}: {trial.error}" if trial.error else text


def totals(record: StudyRecord) -> str:
    """`study sweep: 3 of 6 trials over (2 running, 3 finished); best …; 1:10 in all runs`."""
    over = sum(trial.is_over for trial in record.trials)
    counts = {status: record.count(status) for status in STATUSES}
    shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    found = best_trial(record)
    best = ""
    if found is not None:
        best = f"; best {record.metric} {number(value_of(found, record.metric))}: {found.name}"
    return (
        f"study {record.name}: {over} of {counted(record.total, 'trial')} over ({shown}){best}; "
        f"{counted(sum(trial.env_steps for trial in record.trials), 'env step')}, "
        f"{duration(sum(trial.wall_s for trial in record.trials))} in all runs"
    )


def best_trial(record: StudyRecord) -> TrialRecord | None:
    """The trial with the largest metric, of a study with one preset; else None."""
    scored = [trial for trial in record.trials if value_of(trial, record.metric) is not None]
    if not scored or len({trial.preset for trial in record.trials}) > 1:
        return None
    return max(scored, key=lambda trial: value_of(trial, record.metric) or 0.0)


def value_of(trial: TrialRecord, metric: str) -> float | None:
    """The metric of a trial; None before its first evaluation."""
    return trial.best_score if metric == "best_score" else trial.score


def study_summary(record: StudyRecord) -> dict[str, Any]:
    """A study as one JSON object: counts, the best trial, and all trials."""
    found = best_trial(record)
    return {
        "study": str(record.path),
        "name": record.name,
        "metric": record.metric,
        "total": record.total,
        **{status: record.count(status) for status in STATUSES},
        "best": found.name if found is not None else None,
        "env_steps": sum(trial.env_steps for trial in record.trials),
        "wall_s": round(sum(trial.wall_s for trial in record.trials), 3),
        "slow": slow_trials(record),
        "trials": [_trial_values(trial) for trial in record.trials],
    }


def _trial_values(trial: TrialRecord) -> Mapping[str, Any]:
    kept = (
        *("name", "preset", "variant", "seed", "parameters", "status", "score", "best_score"),
        *("env_steps", "wall_s", "error"),
    )
    return {**{name: getattr(trial, name) for name in kept}, "run": str(trial.run)}

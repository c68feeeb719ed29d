"""Progress of a run: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from common.config_sections import StopConfig
from common.text import counted, printable
from deploy.runs.metrics_file import Rate

if TYPE_CHECKING:  # imported on a terminal
    from rich.table import Table

PLAIN_EVERY_S = 5.0
"""Seconds between two plain lines, at least."""
LEARNING_S = 5.0
"""Seconds of learning before the time left is shown."""
RATE_OVER_S = 300.0
"""Seconds whose mean rate the time left is computed with: evaluations are among them."""


class ProgressView(Protocol):
    """Shows the progress of a run; built-in views show events from INFO on."""

    def update(self, report: dict[str, Any]) -> None:
        """Show a new report."""
        ...

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Show an event.

        Args:
            text: one line.
            level: of `logging`.
            detail: the whole cause, such as a traceback; may be many lines.
        """
        ...

    def close(self) -> None:
        """End: the run is over, or has failed."""
        ...


def make_view(stop: StopConfig, stream: TextIO | None = None) -> ProgressView:
    """A view that fits the stream: a live table on a terminal, plain lines elsewhere."""
    stream = stream or sys.stdout
    return LiveView(stop, stream) if stream.isatty() else PlainView(stop, stream)


class SilentView:
    """Shows nothing."""

    def update(self, report: dict[str, Any]) -> None:
        """Ignored."""

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Ignored."""

    def close(self) -> None:
        """Nothing to close."""


class PlainView:
    """Prints one line every few seconds."""

    def __init__(self, stop: StopConfig, stream: TextIO) -> None:
        """A view that prints to `stream`."""
        self._stop = stop
        self._stream = stream
        self._progress = Progress(stop)
        self._last_s = -PLAIN_EVERY_S
        self._unseen: dict[str, Any] | None = None

    def update(self, report: dict[str, Any]) -> None:
        """Print a line if the last one is old enough, else keep the report for later."""
        self._progress.update(report)
        if time.monotonic() - self._last_s < PLAIN_EVERY_S:
            self._unseen = report
            return
        self._print(report)

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Print the line; the log has the detail."""
        if level >= logging.INFO:
            self._print_line(printable(text))

    def close(self) -> None:
        """Print the last report if it was kept for later."""
        if self._unseen is not None:
            self._print(self._unseen)

    def _print(self, report: dict[str, Any]) -> None:
        self._last_s = time.monotonic()
        self._unseen = None
        parts = [
            f"{report['wall_s']:7.1f} s",
            f"{self._progress.share:4.0%}{eta(self._progress.left_s, self._stop)}",
            f"score {number(report['score'])}{evaluating(report)}",
            f"return {number(report['return_mean_100'])}",
            f"env steps {report['env_steps']:,} ({report['env_steps_per_s']:,.0f}/s)",
            f"learner steps {report['learner_steps']:,} ({report['learner_steps_per_s']:,.0f}/s)",
            f"loss {number(report['loss'], 4)}",
            f"{report['limiter']}{missing(report)}",
        ]
        self._print_line("  ".join(parts))

    def _print_line(self, text: str) -> None:
        with suppress(BrokenPipeError):  # the reader has ended (`| head`), the run has not
            print(text, file=self._stream, flush=True)


class LiveView:
    """Redraws a table in place."""

    def __init__(self, stop: StopConfig, stream: TextIO) -> None:
        """A view on a terminal."""
        from rich.console import Console
        from rich.live import Live

        self._stop = stop
        self._progress = Progress(stop)
        self._live = Live(console=Console(file=stream), refresh_per_second=4)

    def update(self, report: dict[str, Any]) -> None:
        """Redraw the table. It appears with the first report, so that early errors stay plain."""
        if not self._live.is_started:
            self._live.start()
        self._progress.update(report)
        self._live.update(live_table(report, self._stop, self._progress))

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Print the line above the table; the log has the detail."""
        if level < logging.INFO:
            return
        self._live.console.print(printable(text), markup=False, highlight=False)

    def close(self) -> None:
        """Stop redrawing; the last table stays."""
        self._live.stop()


def live_table(report: dict[str, Any], stop: StopConfig, progress: Progress) -> Table:
    """The table of one report.

    Args:
        report: see `RunStatistics.line`.
        stop: conditions that end the run.
        progress: of the run, this report included.
    """
    from rich.table import Table

    done, left = progress.share, progress.left_s
    width = 30
    bar = "█" * round(done * width) + "░" * (width - round(done * width))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("progress", f"{bar} {done:4.0%}  {duration(report['wall_s'])} {eta(left, stop)}")
    table.add_row(
        "score",
        f"{number(report['score'])} greedy{evaluating(report)} "
        f"(best {number(report['best_score'])})   exploring {number(report['return_mean_100'])}",
    )
    table.add_row("env steps", f"{report['env_steps']:>12,}  {report['env_steps_per_s']:>9,.0f}/s")
    table.add_row(
        "learner steps", f"{report['learner_steps']:>12,}  {report['learner_steps_per_s']:>9,.0f}/s"
    )
    table.add_row(
        "replay",
        f"{number(report['replay_size'], 0):>12}  "
        f"data {_rounded(report['data_age'], 'insert')} old, "
        f"acted {_rounded(report['weight_lag'], 'version')} ago",
    )
    table.add_row(
        "loss",
        f"{number(report['loss'], 4)}   |TD error| {number(report['td_error'], 3)}   "
        f"mean q {number(report['mean_q'])}   ε {number(report['epsilon'], 3)}",
    )
    table.add_row("limiter", f"{report['limiter']}{missing(report)}")
    return table


class Progress:
    """Progress of an attempt towards its nearest stop condition.

    A score does not grow evenly: it counts for the bar, never for the ETA. The progress never
    falls, although a score may, and a restored learner repeats steps.

    The ETA comes from the rates since learning began, evaluations included: until then an
    environment steps many times as fast.

    Attributes:
        share: 0 … 1.
        left_s: seconds left; None: not known yet.
    """

    def __init__(self, stop: StopConfig) -> None:
        """Of an attempt without a report, with these conditions that end it."""
        self.share = 0.0
        self.left_s: float | None = None
        self._stop = stop
        self._rates = {key: Rate(RATE_OVER_S) for key in ("learner_steps", "env_steps")}
        self._learning_since_s: float | None = None

    def update(self, report: dict[str, Any]) -> None:
        """Take in a report; see `RunStatistics.line`."""
        stop = self._stop
        goals = {key: getattr(stop, key) for key in ("learner_steps", "env_steps", "wall_s")}
        shares = [report[key] / goal for key, goal in goals.items() if goal is not None]
        if stop.score is not None and stop.score > 0 and report["score"] == report["score"]:
            shares.append(max(0.0, report["score"]) / stop.score)
        self.share = max(self.share, min(1.0, max(shares, default=0.0)))
        rates = {"wall_s": 1.0, **self._rates_since_learning(report)}
        lefts = [
            max(0.0, goals[key] - report[key]) / rate
            for key, rate in rates.items()
            if goals[key] is not None and rate > 0
        ]
        self.left_s = min(lefts, default=None)

    def _rates_since_learning(self, report: dict[str, Any]) -> dict[str, float]:
        """Steps per second by key; empty before learning has gone on for `LEARNING_S`."""
        wall_s = report["wall_s"]
        if self._learning_since_s is None:
            if not isfinite(report["loss"]):  # NaN: the learner has not made a step
                return {}
            self._learning_since_s = wall_s
        for key, rate in self._rates.items():
            rate.add(wall_s, report[key])
        if wall_s - self._learning_since_s < LEARNING_S:
            return {}
        return {key: rate.per_s(wall_s) for key, rate in self._rates.items()}


def eta(left_s: float | None, stop: StopConfig) -> str:
    """Time left; with a score as stop condition, the time left at most."""
    if left_s is None:
        return ""
    return f" {'limit in' if stop.score is not None else 'ETA'} {duration(left_s)}"


def evaluating(report: dict[str, Any]) -> str:
    """A note while an evaluation is in progress, else an empty string."""
    return ", evaluating …" if report["evaluating"] else ""


def missing(report: dict[str, Any]) -> str:
    """The number of ready actors, an empty string if all are."""
    up, actors = report["actors_up"], report["actors"]
    return f"; {up} of {counted(actors, 'actor')} ready" if up < actors else ""


def number(value: float | None, digits: int = 1) -> str:
    """A number as text, a dash for none, NaN or infinity."""
    finite = value is not None and value == value and abs(value) != float("inf")
    return f"{value:,.{digits}f}" if finite else "–"


def _rounded(value: float | None, noun: str) -> str:
    """A whole number with its noun, a dash for none, NaN or infinity."""
    shown = number(value, 0)
    return f"{shown} {noun}s" if value is None or shown == "–" else counted(round(value), noun)


def duration(seconds: float) -> str:
    """`75` → `1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Plots of runs, from their metrics.jsonl."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from common.errors import UserError
from common.types import Array
from deploy.runs.metrics_file import read_metrics

AVERAGE_OVER = 100
"""Episodes in the moving average of returns."""
SIZE_INCHES = (13.0, 7.8)
DOTS_PER_INCH = 110
# The palette of Okabe and Ito, distinct for every colour vision, without its pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

Reports = list[dict[str, Any]]


def plot_runs(runs: Sequence[Path], out: Path) -> None:
    """Draw runs into one PNG file.

    Raises:
        UserError: not a run folder, no reports, or `out` cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out={out}: must end in .png")
    figure = draw(_named({run: read_metrics(run) for run in runs}))
    try:
        out.write_bytes(to_png(figure))
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error.strerror})") from None


def to_png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def draw(runs: dict[str, Reports], figure: Figure | None = None) -> Figure:
    """Six panels: returns, score, loss, ε, speeds, samples per insert.

    Args:
        runs: name → reports, as `read_metrics` returns them or a `ProgressView` receives them.
        figure: to draw into; a new one by default.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = figure or Figure(figsize=SIZE_INCHES, layout=layout)
    figure.clear()
    axes = figure.subplots(2, 3).ravel()
    colours = palette(len(runs))
    for reports, colour in zip(runs.values(), colours, strict=True):
        _returns(axes[0], reports, colour)
        _line(axes[1], reports, "env_steps", "score", colour, mark_new=True)
        _line(axes[2], reports, "learner_steps", "loss", colour)
        _line(axes[3], reports, "env_steps", "epsilon", colour)
        _line(axes[4], reports, "wall_s", "env_steps_per_s", colour, positive=True)
        _line(axes[4], reports, "wall_s", "learner_steps_per_s", colour, "--", positive=True)
        _line(axes[5], reports, "wall_s", "samples_per_insert", colour)
    for axis, title, x in (
        (axes[0], "Episode return while exploring", "episode"),
        (axes[1], "Score: mean return of evaluation episodes", "env steps"),
        (axes[2], "Loss", "learner steps"),
        (axes[3], "ε, mean over environment copies", "env steps"),
        (axes[4], "Speed, per second", "seconds"),
        (axes[5], "Samples per insert", "seconds"),
    ):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(x)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[4].set_yscale("log")
    for axis in (axes[2], axes[3], axes[5]):
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
    first = colours[0] if len(runs) == 1 else "0.35"
    _legend(axes[0], first, {".": "one episode", "-": f"mean over {AVERAGE_OVER}"})
    _legend(axes[4], first, {"-": "env steps", "--": "learner steps"})
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)), fontsize=12)
    else:
        handles = [
            Line2D([], [], color=colour, linewidth=3, label=name)
            for name, colour in zip(runs, colours, strict=True)
        ]
        columns = min(4, len(runs))
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def moving_average(values: Array, over: int) -> Array:
    """Mean of the last `over` values at each place; near the start, of the values so far.

    Args:
        values: `[n]`.
        over: at least 1.

    Returns:
        `[n]` float64.
    """
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - over)
    means: Array = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _named(runs: dict[Path, Reports]) -> dict[str, Reports]:
    """Runs by the name of their folder; by the whole path where two folders share a name."""
    names = [run.resolve().name for run in runs]
    return {
        name if names.count(name) == 1 else str(run): reports
        for name, (run, reports) in zip(names, runs.items(), strict=True)
    }


def palette(count: int) -> list[str]:
    """A colour per run; with more runs than distinct colours, from dark to bright."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.92, count))]


def _legend(axis: Axes, colour: str, styles: dict[str, str]) -> None:
    """Add a legend of markers and line styles; colours stand for runs."""
    for style, label in styles.items():
        axis.plot([], [], style, color=colour, label=label)
    axis.legend(fontsize=9, loc="best")


def _returns(axis: Axes, reports: Reports, colour: str) -> None:
    returns = np.array([ret for report in reports for ret, _, _ in report["episodes"]])
    if not len(returns):
        return
    episodes = np.arange(1, len(returns) + 1)
    axis.plot(episodes, returns, ".", color=colour, alpha=0.2, markersize=3, markeredgewidth=0)
    axis.plot(episodes, moving_average(returns, AVERAGE_OVER), color=colour)


def _line(
    axis: Axes,
    reports: Reports,
    x: str,
    y: str,
    colour: str,
    style: str = "-",
    mark_new: bool = False,
    positive: bool = False,
) -> None:
    points = [(r[x], r[y]) for r in reports if _is_number(r[x]) and _is_number(r[y])]
    if positive:  # a logarithmic axis has no place for 0
        points = [point for point in points if point[1] > 0]
    if not points:
        return
    # Reports repeat a score until the next evaluation, so only new scores count. Other values are
    # measured for each report; without the repeated ones a flat line would become a ramp.
    new = [i for i, p in enumerate(points) if not mark_new or i == 0 or p[1] != points[i - 1][1]]
    kept = [points[i] for i in sorted({*new, len(points) - 1})]
    xs, ys = zip(*kept, strict=True)
    marker = "o" if mark_new or len(kept) == 1 else None
    axis.plot(
        xs,
        ys,
        style,
        color=colour,
        marker=marker,
        markersize=4,
        markevery=list(range(len(new))),  # the last point may be a repetition
    )


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

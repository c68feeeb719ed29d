"""Pictures of runs, from their metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.types import Array, UserError
from deploy.metrics import read_metrics

AVERAGE_OVER = 100
"""Episodes in the moving average, as in the notebook."""


def plot_runs(runs: Sequence[Path], out: Path) -> None:
    """Draw runs into one PNG.

    Raises:
        UserError: not a run folder, nothing to draw, or `out` cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out={out}: must end in .png")
    figure = draw({run.name or str(run.resolve().name): read_metrics(run) for run in runs})
    try:
        figure.savefig(out, dpi=110)
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error.strerror})") from None


def draw(runs: dict[str, list[dict[str, Any]]], figure: Figure | None = None) -> Figure:
    """Six panels: returns, score, loss, ε, speeds, samples per insert.

    Args:
        runs: name → reports, as `read_metrics` returns them.
        figure: to draw into; a new one by default.
    """
    figure = figure or Figure(figsize=(13, 7.5), layout="constrained")
    figure.clear()
    axes = figure.subplots(2, 3).ravel()
    for number, (name, reports) in enumerate(runs.items()):
        colour = f"C{number}"
        _returns(axes[0], name, reports, colour)
        _line(axes[1], reports, "env_steps", "score", colour, marker=".")
        _line(axes[2], reports, "learner_steps", "loss", colour)
        _line(axes[3], reports, "env_steps", "epsilon", colour)
        _line(axes[4], reports, "wall_s", "env_steps_per_s", colour, label="env steps/s")
        _line(
            axes[4], reports, "wall_s", "learner_steps_per_s", colour, "--", label="learner steps/s"
        )
        _line(axes[5], reports, "wall_s", "samples_per_insert", colour)
    for axis, title, x in (
        (axes[0], f"episode return while exploring, and its mean over {AVERAGE_OVER}", "episode"),
        (axes[1], "score: mean return of greedy episodes", "env steps"),
        (axes[2], "loss", "learner steps"),
        (axes[3], "ε, mean over copies", "env steps"),
        (axes[4], "speed", "seconds"),
        (axes[5], "samples per insert", "seconds"),
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x)
        axis.grid(alpha=0.3)
    axes[4].set_yscale("log")
    axes[3].set_ylim(0, None)
    axes[5].set_ylim(0, None)
    for axis in (axes[0], axes[4]):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    return figure


def moving_average(values: Array, over: int) -> Array:
    """Mean of the last `over` values at each place; of all there are so far at the start.

    Args:
        values: `[n]`.

    Returns:
        `[n]` float64.
    """
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - over)
    means: Array = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _returns(axis: Axes, name: str, reports: list[dict[str, Any]], colour: str) -> None:
    returns = np.array([ret for report in reports for ret, _, _ in report["episodes"]])
    if not len(returns):
        return
    episodes = np.arange(1, len(returns) + 1)
    axis.plot(episodes, returns, ".", color=colour, alpha=0.15, markersize=2)
    axis.plot(episodes, moving_average(returns, AVERAGE_OVER), color=colour, label=name)


def _line(
    axis: Axes,
    reports: list[dict[str, Any]],
    x: str,
    y: str,
    colour: str,
    style: str = "-",
    marker: str | None = None,
    label: str | None = None,
) -> None:
    points = [(r[x], r[y]) for r in reports if r[x] is not None and r[y] is not None]
    if not points:
        return
    # Reports repeat what has not changed: draw a value where it was new.
    new = [p for i, p in enumerate(points) if i in (0, len(points) - 1) or p[1] != points[i - 1][1]]
    axis.plot(*zip(*new, strict=True), style, color=colour, marker=marker, label=label)

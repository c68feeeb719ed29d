"""Learning curves as SVG: inside a page, where they take its colours and font, or as a file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from deploy.reporting.curves import Band, Curve, at
from deploy.reporting.plot import COLOURS, palette

SIZE_INCHES = (5.6, 3.6)
DASHES = ("", "6 2", "2 2", "6 2 2 2")
"""Patterns of lines in SVG, so that groups differ without colours too."""
SINGLE_LINES = 12
"""With more groups than this, single seeds are not drawn."""
STEPS = 200
"""Evaluations of a run that are drawn, at the most; of more, those known at so many places."""
# Colours that no group has: what a page replaces by its own.
TEXT, GRID = "#010203", "#040506"
LABELS = {"env_steps": "env steps", "wall_s": "seconds", "learner_steps": "learner steps"}
"""What scores are drawn over."""


@dataclass(frozen=True, slots=True)
class Line:
    """One group in a figure.

    Attributes:
        curves: of its runs.
        band: over these; None: they have no place in common.
    """

    curves: Sequence[Curve]
    band: Band | None


def draw(lines: Sequence[Line], over: str) -> Figure:
    """Scores of groups over env steps or seconds; the page names the groups.

    Args:
        lines: one per group.
        over: a key of `LABELS`.
    """
    figure = Figure(figsize=SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    axis = figure.subplots()
    for number, (line, colour) in enumerate(zip(lines, palette(len(lines)), strict=True)):
        _draw_group(axis, line, colour, number, len(lines) <= SINGLE_LINES)
    ends = [curve.end for line in lines for curve in line.curves]
    axis.set_xlim(0, 1.03 * max(ends) or 1.0)
    axis.set_xlabel(LABELS[over], color=TEXT)
    axis.set_ylabel("score", color=TEXT)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.tick_params(colors=TEXT)
    axis.grid(color=GRID, alpha=0.15, linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["bottom", "left"]].set_color(TEXT)
    return figure


def _draw_group(axis: Axes, line: Line, colour: str, number: int, singles: bool) -> None:
    for curve in line.curves if singles else ():
        x, y = _drawn(curve)
        dot = "o" if len(curve.x) == 1 else None  # it may be at the very end of the run
        axis.plot(
            x,
            y,
            color=colour,
            alpha=0.4,
            linewidth=0.9,
            drawstyle="steps-post",
            marker=dot,
            markersize=4,
            markevery=[0],
        )
    band = line.band
    if band is None:
        return
    if band.low is not None and band.high is not None:
        axis.fill_between(
            band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0, step="post"
        )
    dash = DASHES[number % len(DASHES)]
    style = (0, tuple(map(float, dash.split()))) if dash else "-"
    if len(band.x) == 1:  # one place in common is no line
        axis.plot(band.x, band.mean, "o", color=colour, markersize=5)
    else:
        axis.plot(
            band.x, band.mean, color=colour, linewidth=2, linestyle=style, drawstyle="steps-post"
        )


def _drawn(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The steps of a curve, to its end; fewer of them if there are very many."""
    if len(curve.x) > STEPS:
        grid = np.linspace(float(curve.x[0]), curve.end, STEPS)
        return grid, at(curve, grid)
    return np.append(curve.x, curve.end), np.append(curve.y, curve.y[-1])


def to_svg(figure: Figure) -> str:
    """The figure as the content of an SVG file, on white."""
    svg = _svg(figure).replace(TEXT, "#1f2328").replace(GRID, "#1f2328")
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return re.sub(r"(<svg[^>]*>)", rf"\1{white}", svg, count=1) + "\n"


def to_inline_svg(figure: Figure, title: str, groups: int) -> str:
    """The figure as an element of a page, in the page's width, colours and font.

    Args:
        figure: see `draw`.
        title: read by screen readers; may hold any character.
        groups: number of groups in the figure.
    """
    svg = _svg(figure).replace(TEXT, "currentColor").replace(GRID, "currentColor")
    if groups <= len(COLOURS):
        for number, colour in enumerate(COLOURS):
            svg = svg.replace(colour.lower(), f"var(--c{number})")
    from markupsafe import escape

    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None
    head = f'<svg {size[0]} role="img" aria-label="{escape(title)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)


def _svg(figure: Figure) -> str:
    """SVG without a head, metadata, ids that nothing refers to, and needless digits."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raydqn"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    return re.sub(r' d="([^"]*)"', lambda found: f' d="{_short_path(found[1])}"', svg)


def _short_path(path: str) -> str:
    """A path of straight lines in tenths of a point; steps take one number each."""
    words = path.split()
    if set(filter(str.isalpha, words)) - set("MLz"):
        return path
    parts, last = [], ("", "")
    numbers = iter(words)
    for word in numbers:
        if word == "z":
            parts.append(word)
            continue
        point = (_tenths(next(numbers)), _tenths(next(numbers)))
        if word == "M":
            parts.append(f"M{point[0]} {point[1]}")
        elif point[1] == last[1]:
            parts.append(f"H{point[0]}" if point[0] != last[0] else "")
        else:
            parts.append(f"V{point[1]}" if point[0] == last[0] else f"L{point[0]} {point[1]}")
        last = point
    return "".join(parts)


def _tenths(number: str) -> str:
    return f"{float(number):.1f}".removesuffix(".0")


def colour_of(number: int, groups: int) -> str:
    """The colour of a group in a page: see `to_inline_svg`."""
    return f"var(--c{number})" if groups <= len(COLOURS) else palette(groups)[number]

"""LivePlot: the plot of `raydqn plot`, redrawn in a notebook during a run."""

from __future__ import annotations

import logging
import time
from typing import Any

from common.errors import UserError
from deploy.reporting.plot import draw, to_png


class LivePlot:
    """A `ProgressView` for notebooks: one output that changes in place.

    In one process drawing takes time from the run, so it happens every few seconds only; the last
    report is always drawn.
    """

    def __init__(self, name: str = "run", every_s: float = 2.0) -> None:
        """A plot that appears with the first report.

        Args:
            name: of the run, above the plot.
            every_s: seconds from the end of one drawing to the start of the next, at least.

        Raises:
            UserError: IPython is not installed.
        """
        try:
            from IPython.display import Image, display
        except ImportError:
            raise UserError(
                "LivePlot: needs IPython (pip install ipykernel); without it, draw a run "
                "afterwards with: raydqn plot RUN"
            ) from None
        self._image: Any = Image
        self._display: Any = display
        self._name = name
        self._every_s = every_s
        self._output: Any = None  # IPython's handle of the output
        self._figure = draw({name: []})
        self._drawn = 0
        self._drawn_s = -every_s
        self.reports: list[dict[str, Any]] = []

    def update(self, report: dict[str, Any]) -> None:
        """Keep a report; redraw if the last drawing is old enough."""
        self.reports.append(report)
        if time.monotonic() - self._drawn_s >= self._every_s:
            self._draw()

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        """Print the line below the cell; the log has the detail."""
        if level >= logging.INFO:
            print(text, flush=True)

    def close(self) -> None:
        """Draw the last report, if it is not drawn yet. May be called again."""
        if self._drawn < len(self.reports):
            self._draw()

    def _draw(self) -> None:
        draw({self._name: self.reports}, self._figure)
        picture = self._image(data=to_png(self._figure), format="png")
        if self._output is None:
            self._output = self._display(picture, display_id=True)
        else:
            self._output.update(picture)
        self._drawn = len(self.reports)
        self._drawn_s = time.monotonic()

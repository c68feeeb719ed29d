"""`raydqn status`: host, state, rate, age and restarts of every part of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import UserError

OLD_AFTER_S = 15.0
"""The age of an older status of a live run is shown."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One row: a part, as the supervisor sees it.

    Attributes:
        part: its id, as text. incarnation: that fills its slot.
        host, pid: its process; None: the driver's own, or not known yet.
        state: up (it is ready), waiting (for its process, or for a node), silent (its heartbeat is
            overdue by so many seconds).
        rate, unit: its work per second; None: it only serves other parts.
        age_s: seconds since its first heartbeat. restarts: in this attempt of the run.
    """

    part: str
    incarnation: int
    host: str | None
    pid: int | None
    state: str
    rate: float | None
    unit: str
    age_s: float | None
    restarts: int


def run_status(run: str, line: Mapping[str, Any], parts: Iterable[PartStatus]) -> dict[str, Any]:
    """The status that is written and published: the parts, and main numbers of a report."""
    kept = ("wall_s", "env_steps", "learner_steps", "env_steps_per_s", "learner_steps_per_s")
    return {
        "run": run,
        "at": time.time(),
        **{key: line[key] for key in (*kept, "score", "restarts", "limiter")},
        "parts": [asdict(part) for part in parts],
    }


def show(status: Mapping[str, Any], running: bool, console: Console | None = None) -> None:
    """Print a status.

    Args:
        status: see `run_status`.
        running: whether the run still goes on.
        console: where to; by default the terminal.

    Raises:
        UserError: not a status.
    """
    console = console or Console()
    try:
        age_s = time.time() - status["at"]
        when = f"{'for' if running else 'has ended after'} {status['wall_s']:,.0f} s"
        if not running:
            when += f", by {status['stop_reason']}" if "stop_reason" in status else ", killed"
        elif age_s > OLD_AFTER_S:
            when += f" (status is {age_s:,.0f} s old)"
        score = "none yet" if status["score"] is None else f"{status['score']:g}"
        console.print(
            f"{status['run']}: {when}: {status['env_steps']:,} env steps "
            f"({status['env_steps_per_s']:,.0f}/s), {status['learner_steps']:,} learner steps "
            f"({status['learner_steps_per_s']:,.1f}/s), score {score}, restarts "
            f"{status['restarts']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if not running:
            return  # its parts are gone
        table = Table(box=None, pad_edge=False)
        for name in ("part", "host", "pid", "state", "rate", "age", "restarts"):
            table.add_column(name, justify="right" if name in ("pid", "rate", "age") else "left")
        for row in status["parts"]:
            part = PartStatus(**row)
            table.add_row(
                part.part,
                part.host or "–",
                "–" if part.pid is None else str(part.pid),
                part.state,
                "–" if part.rate is None else f"{part.rate:,.0f} {part.unit}",
                "–" if part.age_s is None else f"{part.age_s:,.0f} s",
                str(part.restarts),
            )
        console.print(table, markup=False, highlight=False)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not a status of a run ({type(error).__name__}: {error})") from None

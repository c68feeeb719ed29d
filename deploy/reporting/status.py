"""`raydqn status`: host, state, rate and age of every part of a run, and its last events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import UserError

OLD_AFTER_S = 15.0
"""Beyond this age a status is shown with its age."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One row of the table: a part, as the supervisor sees it.

    Attributes:
        part: its id, as text.
        incarnation: of the part.
        host, pid: of its process; None: the driver's own process, or not known yet.
        state: `up`, `waiting` (for its process, or for a node), `silent 5 s` (no heartbeat).
        rate, unit: work per second; None for parts that only serve calls.
        age_s: seconds since its first heartbeat.
        restarts: of this slot in this attempt.
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
    """A status: the parts, and the main numbers of the newest report.

    Args:
        run: name of the run.
        line: the newest report.
        parts: rows of the table.
    """
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
        status: see `run_status`, with `log` and `events` (see `RunFolder.read_log`) if known.
        running: whether the run goes on.
        console: to print on; by default the terminal.

    Raises:
        UserError: not the status of a run.
    """
    console = console or Console()
    try:
        _print(console, _headline(status, running))
        if running:  # the parts of a run that has ended are gone
            console.print(_part_table(status["parts"]), markup=False, highlight=False)
        if status.get("log") is not None:
            _print(console, f"log: {status['log']}")
        for event in status.get("events") or []:
            _print(console, f"  {event['at']} {event['level']} {event['text']}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a status of a run ({type(error).__name__}: {error})") from None


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _headline(status: Mapping[str, Any], running: bool) -> str:
    age_s = time.time() - status["at"]
    when = f"{'for' if running else 'has ended after'} {status['wall_s']:,.0f} s"
    if not running:
        when += f", by {status['stop_reason']}" if "stop_reason" in status else ", killed"
    elif age_s > OLD_AFTER_S:
        when += f" (status is {age_s:,.0f} s old)"
    score = "none yet" if status["score"] is None else f"{status['score']:g}"
    return (
        f"{status['run']}: {when}: {status['env_steps']:,} env steps "
        f"({status['env_steps_per_s']:,.0f}/s), {status['learner_steps']:,} learner steps "
        f"({status['learner_steps_per_s']:,.1f}/s), score {score}, restarts "
        f"{status['restarts']}"
    )


def _part_table(parts: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("part", "host", "pid", "state", "rate", "age", "restarts"):
        table.add_column(name, justify="right" if name in ("pid", "rate", "age") else "left")
    for row in parts:
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
    return table

"""`raydqn status`: host, state, rate and age of every part of a run, and its last events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.text import counted, printable
from deploy.reporting.summary import FAILED, reason_in_words

if TYPE_CHECKING:  # imported by the command that prints
    from rich.console import Console
    from rich.table import Table

OPERATING = (
    *("device", "actors", "actors_up", "checkpoints", "checkpoint_age_s"),
    *("checkpoints_failed", "lost_with_nodes"),
)
"""Numbers of a report for operators; a status of an earlier version lacks them."""
MAX_RESTARTS = 5
"""Restarts that a status lists."""
OLD_AFTER_S = 15.0
"""Beyond this age a status is shown with its age."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One row of the table: a part, as the supervisor sees it.

    Attributes:
        part: its id, as text.
        incarnation: of the part.
        host, pid: of its process; None: the driver's own process, or not known yet.
        state: `ready`; `starting`; `pending placement` (no node has room for it); `awaiting
            restore` (the storage is unreadable); `unresponsive 5 s` (no heartbeat for so long).
        rate, unit: work per second; None for parts that only serve calls.
        age_s: seconds since its first heartbeat.
        restarts: of this slot in this attempt.
        restarted_at, cause: time of the last restart, in seconds since the epoch, and its reason as
            the rest of a sentence that begins with the part's name; None: there was none.
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
    restarted_at: float | None = None
    cause: str | None = None


def run_status(run: str, line: Mapping[str, Any], parts: Iterable[PartStatus]) -> dict[str, Any]:
    """A status: the parts, and the main numbers of the newest report.

    Args:
        run: name of the run.
        line: the newest report.
        parts: rows of the table.
    """
    kept = ("wall_s", "env_steps", "learner_steps", "env_steps_per_s", "learner_steps_per_s")
    parts = list(parts)
    return {
        "run": run,
        "at": time.time(),
        **{key: line[key] for key in (*kept, "score", "restarts", "limiter")},
        **{key: line.get(key) for key in OPERATING},
        "last_restarts": _last_restarts(parts),
        "parts": [asdict(part) for part in parts],
    }


def _last_restarts(parts: Iterable[PartStatus]) -> list[dict[str, Any]]:
    """The last restart of each part that had one, newest first: `part`, `at` and `cause`."""
    found = [(part.restarted_at, part) for part in parts if part.restarted_at is not None]
    found.sort(key=lambda one: -one[0])
    return [{"part": p.part, "at": at, "cause": p.cause or ""} for at, p in found[:MAX_RESTARTS]]


def show(status: Mapping[str, Any], running: bool, console: Console | None = None) -> None:
    """Print a status.

    Args:
        status: see `deploy.runs.run_status`.
        running: whether the run is in progress.
        console: to print on; by default the terminal.

    Raises:
        UserError: not the status of a run.
    """
    console = console or _terminal()
    try:
        for line in (_running_line(status),) if running else _ended_lines(status):
            _print(console, line)
        if running:  # the parts of a run that has ended are gone
            for line in _operating_lines(status):
                _print(console, f"  {line}")
            console.print(_part_table(status["parts"]), markup=False, highlight=False)
        if status.get("log") is not None:
            _print(console, f"log: {status['log']}")
        for event in status.get("events") or []:
            _print(console, f"  {event['at']} {event['level']} {event['text']}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a status of a run ({type(error).__name__}: {error})") from None


def show_briefly(statuses: Iterable[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the statuses of several active runs, one line each, by name.

    Args:
        statuses: see `deploy.runs.run_status`.
        console: to print on; by default the terminal.

    Raises:
        UserError: not the status of a run.
    """
    console = console or _terminal()
    try:
        for status in sorted(statuses, key=lambda status: str(status["run"])):
            _print(console, "; ".join((_running_line(status), *_operating_lines(status))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a status of a run ({type(error).__name__}: {error})") from None


def _terminal() -> Console:
    from rich.console import Console

    return Console()


def _print(console: Console, text: str) -> None:
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _running_line(status: Mapping[str, Any]) -> str:
    age_s = time.time() - status["at"]
    old = f" (status is {age_s:,.0f} s old)" if age_s > OLD_AFTER_S else ""
    return (
        f"{status['run']}: running for {status['wall_s']:,.0f} s{old}: "
        f"{counted(status['env_steps'], 'env step')} ({status['env_steps_per_s']:,.0f}/s), "
        f"{counted(status['learner_steps'], 'learner step')} "
        f"({status['learner_steps_per_s']:,.1f}/s), {_score(status)}"
    )


def _operating_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Device, waiting side, actors and checkpoints; a status of an earlier version lacks some."""
    device, known = status.get("device"), status.get("actors") is not None
    ready = (
        f"{status['actors_up']} of {counted(status['actors'], 'actor')} ready; " if known else ""
    )
    yield f"learner on {device or 'a device that is not known yet'}; {ready}{status['limiter']}"
    if status.get("checkpoints") is not None:
        age_s, failed = status["checkpoint_age_s"], status["checkpoints_failed"]
        none = "no checkpoint in this attempt yet"
        age_s += max(0.0, time.time() - status["at"])  # of the status itself
        newest = f"last good checkpoint {_ago(age_s)}" if status["checkpoints"] else none
        lost = status["lost_with_nodes"]
        yield f"{newest}; failed checkpoints: {failed}; parts lost with their nodes: {lost}"
    for restart in status.get("last_restarts") or []:
        yield f"restarted {_ago(time.time() - restart['at'])}: {restart['part']} {restart['cause']}"


def _ended_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """How a run ended, and its newest counters."""
    run, reason = status["run"], status.get("stop_reason")
    if "wall_s" not in status:
        so_far = "it ended before its first report"
    else:
        so_far = (
            f"{counted(status['env_steps'], 'env step')}, "
            f"{counted(status['learner_steps'], 'learner step')}, "
            f"{_score(status)}"
        )
    after = f" after {status['wall_s']:,.0f} s" if "wall_s" in status else ""
    if reason is None:
        age = ""
        if "counters_at" in status:
            age = f", last reported {_ago(time.time() - status['counters_at'])}"
        yield f"{run}: the driver ended without a summary{after}: {so_far}{age}"
    elif reason == FAILED:
        yield f"{run}: failed: {status.get('error')}"
        yield f"  {so_far}{after}"
    else:
        yield f"{run}: ended{after}: {reason_in_words(reason)}; {so_far}"


def _score(status: Mapping[str, Any]) -> str:
    score = "none yet" if status["score"] is None else f"{status['score']:g}"
    return f"score {score}, restarts {status['restarts']}"


def _ago(seconds: float) -> str:
    """`75` → `75 s ago`, and longer times in larger units."""
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name} ago"
    return f"{max(0.0, seconds):,.0f} s ago"


def _part_table(parts: Iterable[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("part", "host", "pid", "state", "rate", "age", "restarts"):
        table.add_column(name, justify="right" if name in ("pid", "rate", "age") else "left")
    for row in parts:
        part = PartStatus(**row)
        table.add_row(
            part.part,
            printable(part.host or "–"),
            "–" if part.pid is None else str(part.pid),
            part.state,
            "–" if part.rate is None else f"{part.rate:,.0f} {part.unit}",
            "–" if part.age_s is None else f"{part.age_s:,.0f} s",
            str(part.restarts),
        )
    return table

"""One run as a report knows it, read from its folder; a remark names each thing that is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.config import Config
from common.config_sections import StopConfig
from common.config_toml import build, load_toml
from common.errors import UserError
from common.text import counted
from common.types import Array
from deploy.reporting.bounded import Bounds, bounds_of
from deploy.reporting.summary import FAILED, reason_in_words
from deploy.runs.attempts import read_attempts
from deploy.runs.folder import CONFIG, LOG, METRICS, STATUS, SUMMARY, is_locked, is_run
from deploy.runs.json_values import finite_number
from deploy.runs.log import last_events
from deploy.runs.metrics_file import read_metrics
from deploy.runs.no_run import no_run

State = Literal["complete", "unfinished", "running", "failed"]
POINT = ("env_steps", "wall_s", "learner_steps", "score")
"""Values of an evaluation in a report, as in `Scores`."""
LOG_EVENTS = 10_000
"""Events of a log in which the start of an attempt is looked for."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The evaluations of a run, in their order, each where a report showed it first.

    Attributes:
        env_steps: `[k]`.
        wall_s: `[k]` seconds since the command began.
        learner_steps: `[k]`.
        score: `[k]` mean return of the episodes of an evaluation.
    """

    env_steps: Array
    wall_s: Array
    learner_steps: Array
    score: Array


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run.

    Attributes:
        path: its folder.
        name: of the run.
        config: its configuration.
        state: `complete`: a stop condition ended it; `unfinished`: anything else ended it;
            `running`; `failed`.
        ending: how it ended, in words.
        scores: of its evaluations.
        final, best: score of its last and of its best evaluation; None before the first.
        env_steps, learner_steps: totals.
        wall_s: seconds of the whole command, all attempts included.
        protocol: what the score depends on.
        attempts: records of its attempts, as `deploy.runs.attempts` writes them.
        device: of the learner, with torch's version; None: not known.
        hosts: number of hosts of its parts, as its last status has them; 0: not known.
        bounds: what bounded its speed; None: its reports do not tell.
        remarks: what is missing or was left out.
        fresh: raw returns of episodes that were played for the report; None: none were.
    """

    path: Path
    name: str
    config: Config
    state: State
    ending: str
    scores: Scores
    final: float | None
    best: float | None
    env_steps: int
    learner_steps: int
    wall_s: float
    protocol: Mapping[str, Any]
    attempts: list[dict[str, Any]]
    device: str | None
    hosts: int
    bounds: Bounds | None
    remarks: list[str] = field(default_factory=list)
    fresh: list[float] | None = None

    @property
    def score(self) -> float | None:
        """The score that counts: of the fresh episodes, else of the last evaluation."""
        return float(np.mean(self.fresh)) if self.fresh else self.final


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A run without anything to show.

    Attributes:
        path: its folder.
        name: of the run.
        reason: one line.
    """

    path: Path
    name: str
    reason: str


def read_run(path: Path, name: str | None = None) -> RunRecord | Unreadable:
    """A run from its folder, in any state.

    Args:
        path: of the folder.
        name: of the run; by default that of the folder.
    """
    name = name or path.resolve().name
    try:
        return _read(path, name)
    except UserError as error:
        return Unreadable(path, name, str(error))
    except OSError as error:
        return Unreadable(path, name, f"{path}: cannot be read ({error.strerror or error})")
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        return Unreadable(path, name, f"{path}: is damaged ({type(error).__name__}: {error})")


def _read(path: Path, name: str) -> RunRecord:
    if not is_run(path):
        raise no_run(path, CONFIG)
    config = build(load_toml(path / CONFIG), str(path / CONFIG))
    summary = _json(path / SUMMARY)
    state, ending = _state(path, summary)
    try:
        reports = read_metrics(path)
    except UserError as error:
        raise UserError(f"{error} ({ending})") from None
    kept, remarks = _without_superseded(path, reports)
    last = kept[-1] if kept else {}
    scores = _scores([*kept, summary])
    if not scores.score.size:
        never = config.evaluation.every_learner_steps is None
        remarks.append("its configuration asks for no evaluation" if never else
                       "it ended before its first evaluation" if state != "running" else
                       "it has no evaluation yet")  # fmt: skip
    attempts = read_attempts(path)
    if not attempts:
        remarks.append("it did not record its machine: an earlier version of raydqn ran it")
    protocol, parts = summary.get("protocol"), _parts(path)
    return RunRecord(
        path=path,
        name=name,
        config=config,
        state=state,
        ending=ending,
        scores=scores,
        final=float(scores.score[-1]) if scores.score.size else None,
        best=max(_numbers(summary.get("best_score"), last.get("best_score")), default=None),
        env_steps=int(max(_numbers(summary.get("env_steps"), last.get("env_steps")), default=0)),
        learner_steps=int(
            max(_numbers(summary.get("learner_steps"), last.get("learner_steps")), default=0)
        ),
        wall_s=max(_numbers(summary.get("wall_s"), last.get("wall_s")), default=0.0),
        protocol=protocol if isinstance(protocol, dict) else _configured(config),
        attempts=attempts or _attempts_in_log(path),
        device=_device(summary, last),
        hosts=len({str(part["host"]) for part in parts if part.get("host")}),
        bounds=bounds_of(kept, _is_inline(path, attempts, parts)),
        remarks=remarks,
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(path: Path, summary: Mapping[str, Any]) -> tuple[State, str]:
    """The state of a run, and how it ended in words."""
    reason = summary.get("stop_reason")
    if not isinstance(reason, str):
        if is_locked(path):
            return "running", "still going on"
        return "unfinished", "the driver ended without a summary"
    if reason == FAILED:
        return "failed", f"failed: {summary.get('error')}"
    complete = reason in StopConfig.model_fields
    return "complete" if complete else "unfinished", reason_in_words(reason)


def _without_superseded(
    path: Path, reports: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reports without those that a resume from an older checkpoint has made void.

    Returns:
        The others, in their order, and remarks on what is left out.
    """
    written = sum(1 for line in (path / METRICS).read_bytes().splitlines() if line.strip())
    damaged = written - len(reports)
    kept: list[dict[str, Any]] = []
    usable = [one for one in reports if len(_numbers(one["env_steps"], one["wall_s"])) == 2]
    damaged += len(reports) - len(usable)
    for report in usable:
        while kept and kept[-1]["env_steps"] > report["env_steps"]:
            kept.pop()
        kept.append(report)
    remarks = []
    if damaged:
        remarks.append(f"{counted(damaged, 'line')} of {METRICS} left out: cut off, or no report")
    if len(kept) < len(usable):
        superseded = counted(len(usable) - len(kept), "report")
        remarks.append(f"{superseded} left out: a resume began before them and repeated their work")
    return kept, remarks


def _scores(reports: Iterable[Mapping[str, Any]]) -> Scores:
    """Evaluations: reports repeat a score until the next one."""
    points: list[list[float]] = []
    for report in reports:
        numbers = _numbers(*(report.get(key) for key in POINT))
        if len(numbers) == len(POINT) and (not points or points[-1][-1] != numbers[-1]):
            points.append(numbers)
    table = np.array(points, np.float64).reshape(-1, len(POINT))
    return Scores(*table.T)


def _numbers(*values: Any) -> list[float]:
    """Those of the values that are finite numbers."""
    return [number for value in values if (number := finite_number(value)) is not None]


def _configured(config: Config) -> dict[str, Any]:
    """The protocol as far as the configuration tells, of a run that has not recorded it."""
    env = config.env.model_dump(exclude_defaults=True, mode="json")
    return {"env": config.env.id, **{key: env[key] for key in env if key != "id"}}


def _device(summary: Mapping[str, Any], last: Mapping[str, Any]) -> str | None:
    found = [one.get("device") for one in (summary, last)]
    return next((device for device in found if isinstance(device, str)), None)


def _is_inline(path: Path, attempts: list[dict[str, Any]], parts: list[dict[str, Any]]) -> bool:
    """Whether the run ran in one process; that of an earlier version says so in log or status."""
    modes = [str(one.get("mode") or "") for one in attempts or _attempts_in_log(path)]
    if any(modes):
        return all(mode.startswith("one process") for mode in modes)
    return bool(parts) and not any(part.get("pid") for part in parts)  # they are in one process


def _parts(path: Path) -> list[dict[str, Any]]:
    """The parts in the last status of a run; none if it has no status."""
    parts = _json(path / STATUS).get("parts")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _attempts_in_log(path: Path) -> list[dict[str, Any]]:
    """Attempts as the log of a run tells them: without the machine."""
    found = []
    for event in last_events(path / LOG, LOG_EVENTS):
        head, _, command = event["text"].partition("; ")
        words = head.split(", ")
        if words[0].startswith("attempt ") and ": raydqn " in words[0] and len(words) > 1:
            versions = {"raydqn": words[0].rpartition(" ")[2], "Python": words[1].split()[-1]}
            mode = ", ".join(words[2:])
            found.append({"command": command, "mode": mode, "versions": versions})
    return found

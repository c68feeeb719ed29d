"""The folder of a study: many runs of one study file.

studies/NAME/
    study.json        one record per trial: its configuration, how far it is, how it ended
    study.toml        the study file as it was given last
    runs/TRIAL/       the run folder of each trial that has begun (see deploy.runs.folder)
    trials/TRIAL.toml what the trial sets over its preset
    trials/TRIAL.log  what its process printed
    .lock             held by the command that runs the study

Only that command writes `study.json`, always as a whole; every process may read it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

from common.errors import UserError
from common.polling import poll_until
from common.storage import write_atomically
from deploy.runs.folder import SUMMARY
from deploy.runs.json_values import without_nan
from deploy.runs.metrics_file import last_report
from deploy.runs.no_run import STUDY_RECORD, STUDY_RUNS

RECORD, RUNS = STUDY_RECORD, STUDY_RUNS
GIVEN, TRIALS, LOCK = "study.toml", "trials", ".lock"
STUDIES = "studies"
"""The folder of study folders, below the working folder."""
STOP = "stop"
"""A file in the study folder that asks the processes of all trials to save and end."""
LOOKED_AT_S = 0.3
"""Longest time that a look at the lock (see `is_locked`) may hold it."""
FORMAT = 1
Status = Literal["pending", "running", "finished", "stopped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial of a study.

    Attributes:
        name: of the trial, and of its run folder.
        preset: on which its configuration stands.
        variant: the name of a variant, or the number of a sample; empty: the study has neither.
        seed: of the run.
        run: its run folder; it exists once the trial has begun.
        overrides: what the trial sets over the preset, nested by section, the seed included.
        parameters: of these, what a search has chosen, by key: `{"learner.gamma": 0.9}`.
        status: `pending`, also of a trial that was interrupted and goes on with the study;
            `running`; `finished`; `stopped` by the scheduler; `failed`.
        score: of the newest evaluation; None before the first.
        best_score: likewise, of the best one.
        env_steps: environment steps.
        wall_s: seconds, all attempts included.
        error: one line, of a trial that failed; else empty.
    """

    name: str
    preset: str
    variant: str
    seed: int
    run: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "pending"
    score: float | None = None
    best_score: float | None = None
    env_steps: int = 0
    wall_s: float = 0.0
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the trial needs no further work, unless a failure is to be retried."""
        return self.status not in ("pending", "running")

    @property
    def has_begun(self) -> bool:
        """Whether it has been trained, so that its configuration must stay as it is."""
        return self.env_steps > 0 or self.status in ("running", "finished", "stopped")


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study.

    Attributes:
        name: of the study.
        path: its folder.
        metric: the number by which trials are compared: `score` or `best_score`.
        trials: all that are known; a search adds to them as it goes on.
        total: number of trials of the whole study.
        running: whether a command runs the study now.
    """

    name: str
    path: Path
    metric: str
    trials: list[TrialRecord]
    total: int
    running: bool = False

    def count(self, status: Status) -> int:
        """Number of trials with a status; those that are not known yet are pending."""
        known = sum(trial.status == status for trial in self.trials)
        return known + (self.total - len(self.trials) if status == "pending" else 0)


def is_study(path: Path) -> bool:
    """Whether a path is the folder of a study."""
    try:
        return (path / RECORD).is_file()
    except OSError:
        return False


def check_folder(path: Path) -> None:
    """Refuse a folder that holds anything else than a study.

    Raises:
        UserError: names the folder.
    """
    if is_study(path) or not path.is_dir():
        return
    with suppress(OSError):
        if any(not child.name.startswith(".") for child in path.iterdir()):
            raise UserError(f"{path}: is not empty, and not the folder of a study; name another "
                            "--study-dir")  # fmt: skip


def read_study(path: Path) -> StudyRecord:
    """A study, with the newest numbers of the trials that have not ended.

    Raises:
        UserError: not the folder of a study, or its record is damaged.
    """
    record = load_study(path)
    running = is_locked(path)
    trials = [trial if trial.is_over else refreshed(trial, running) for trial in record.trials]
    return replace(record, trials=trials, running=running)


def load_study(path: Path) -> StudyRecord:
    """A study as its record was written last; see `read_study`."""
    if not is_study(path):
        why = f"it has no {RECORD}" if path.exists() else "it is not there"
        meant = Path(STUDIES, path.stem)  # the name of a study, or its file
        hint = f"; did you mean {meant}?" if is_study(meant) else ""
        raise UserError(f"{path}: not the folder of a study ({why}){hint}")
    file = path / RECORD
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise UserError(f"{file}: has format {values['format']}; must be {FORMAT}")
        trials = [_trial_of(path, trial) for trial in values["trials"]]
        total = max(int(values["total"]), len(trials))
        return StudyRecord(str(values["name"]), path, str(values["metric"]), trials, total)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is damaged ({type(error).__name__}: {error})") from None


def save_study(record: StudyRecord) -> None:
    """Write the record of a study; the caller holds its lock."""
    values = {
        "format": FORMAT,
        "name": record.name,
        "metric": record.metric,
        "total": record.total,
        "trials": [_values_of(trial) for trial in record.trials],
    }
    write_atomically(record.path / RECORD, json.dumps(without_nan(values), indent=1).encode())


def refreshed(trial: TrialRecord, running: bool = True) -> TrialRecord:
    """A trial with the newest numbers of its run.

    Args:
        trial: as it was recorded.
        running: whether its study is being run; else it is not running either.
    """
    report = last_report(trial.run) or {}
    with suppress(OSError, ValueError):  # there is none while the run lasts
        summary = json.loads((trial.run / SUMMARY).read_text(encoding="utf-8"))
        report = {**report, **summary} if isinstance(summary, dict) else report
    kept = ("score", "best_score", "env_steps", "wall_s")
    numbers = {name: report[name] for name in kept if isinstance(report.get(name), (int, float))}
    status = trial.status if running or trial.status != "running" else "pending"
    return replace(trial, status=status, **numbers)


def is_locked(path: Path) -> bool:
    """Whether a command runs the study of this folder."""
    try:
        with (path / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from running the study of this folder.

    Raises:
        UserError: another command runs it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        if not poll_until(lambda: _takes(file), LOOKED_AT_S, every_s=0.02):
            raise UserError(f"{path}: another process is running this study")
        yield


def _takes(file: IO[str]) -> bool:
    """Whether the lock of a study is free, and now held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _values_of(trial: TrialRecord) -> dict[str, Any]:
    return {**asdict(trial), "run": f"{RUNS}/{trial.name}"}


def _trial_of(path: Path, values: Mapping[str, Any]) -> TrialRecord:
    known = {entry.name for entry in fields(TrialRecord)}
    given = {name: value for name, value in values.items() if name in known}
    name, status = given["name"], given["status"]
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise ValueError(f"a trial has the name {name!r}")
    if status not in STATUSES:
        raise ValueError(f"trial {name} has the status {status!r}")
    return TrialRecord(**{**given, "run": path / RUNS / name, "status": cast(Status, status)})

"""The trials of a study while it runs: Tune takes them from here and tells what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import tomlkit

from common.errors import UserError
from common.storage import write_atomically
from deploy.reporting.study_view import StudyProgress
from deploy.runs.metrics_file import read_metrics
from deploy.runs.study_folder import (
    STOP,
    TRIALS,
    Status,
    StudyRecord,
    TrialRecord,
    refreshed,
    save_study,
)
from deploy.runtime.trial_process import INTERRUPTED, TrialCommand
from deploy.runtime.tune_search import PastTrial, results_of
from deploy.study.plan import config_of, new_trial, sample_name
from deploy.study.study_file import StudyFile

SHOW_EVERY_S = 1.0


@dataclass(slots=True)
class StudyRunner:
    """The queue of a study's trials (see `deploy.runtime.tune.TrialQueue`).

    Every change of a trial is written to the study folder at once.
    """

    file: StudyFile
    source: Path
    path: Path
    name: str
    trials: dict[str, TrialRecord]
    total: int
    view: StudyProgress
    every_env_steps: float = float("inf")
    stopping: bool = False
    _taken: set[str] = field(default_factory=set)
    _shown_s: float = 0.0

    def record(self) -> StudyRecord:
        """The study as it is now."""
        trials = list(self.trials.values())
        return StudyRecord(self.name, self.path, self.file.metric, trials, self.total, True)

    def save(self) -> None:
        """Write the record of the study."""
        save_study(self.record())

    def stop(self) -> None:
        """Begin no further trial, and have those in progress save themselves and end.

        A signal handler may call this at any time.
        """
        self.stopping = True
        with suppress(OSError):
            (self.path / STOP).touch()

    # --- the queue ----------------------------------------------------------------------------

    def waiting(self) -> list[TrialRecord]:
        """The known trials that are to be run, in their order."""
        trials = self.trials.values()
        return [one for one in trials if not one.is_over and one.name not in self._taken]

    def remaining(self) -> int:
        """The number of trials to run, those included that are not known yet."""
        return len(self.waiting()) + self.total - len(self.trials)

    def take(self) -> TrialCommand | None:
        """The next known trial that its configuration does not refuse; None: there is none."""
        for trial in self.waiting():
            command = self._begun(trial)
            if command is not None:
                return command
        return None

    def add(self, sample: Mapping[str, Any]) -> TrialCommand | None:
        """A new trial of a sample, by key; None: the configuration refuses it."""
        (preset,), (seed,) = self.file.all_presets, self.file.seeds
        number = sample_name(len(self.trials) + 1)
        trial = new_trial(self.file, self.path, preset, seed, number, sample)
        self.trials[trial.name] = trial
        return self._begun(trial)

    def started(self, name: str) -> None:
        """A trial has a worker."""
        self._change(name, "running")

    def ended(self, name: str, outcome: str, error: str) -> None:
        """A trial has ended; see `TrialQueue.ended`."""
        # One that was interrupted goes on when the study is run again.
        status = "pending" if outcome == INTERRUPTED else outcome or "stopped"
        self._change(name, cast(Status, status), error)

    def past(self, name: str) -> PastTrial:
        """The scores of a trial of this study, from the files of its run."""
        return past_trial(self.trials[name], self.file.metric)

    def tick(self) -> None:
        """Show the progress, once a second."""
        if time.monotonic() - self._shown_s < SHOW_EVERY_S:
            return
        self._shown_s = time.monotonic()
        for name, trial in self.trials.items():
            if trial.status == "running":
                self.trials[name] = refreshed(trial)
        self.view.update(self.record())

    def _begun(self, trial: TrialRecord) -> TrialCommand | None:
        """The command of a trial; None: its configuration is refused, and it has failed."""
        self._taken.add(trial.name)
        try:
            command = self._command(trial)
        except UserError as error:
            self._change(trial.name, "failed", str(error))
            return None
        self.save()
        return command

    def _change(self, name: str, status: Status, error: str = "") -> None:
        self.trials[name] = replace(refreshed(self.trials[name]), status=status, error=error)
        self.save()
        self.view.update(self.record())

    def _command(self, trial: TrialRecord) -> TrialCommand:
        """The command of a trial, whose own values lie in a TOML file over the preset.

        Raises:
            UserError: the configuration is refused.
        """
        limit = config_of(trial, self.source).stop.env_steps
        toml = self.path / TRIALS / f"{trial.name}.toml"
        write_atomically(toml, tomlkit.dumps(dict(trial.overrides)).encode())
        words = ["train", trial.preset, "--config", toml, "--run-dir", trial.run]
        words += ["--resume-if-exists"]
        place = self.file.run
        if place.address is not None:
            words += ["--address", place.address]
        elif place.inline:
            words += ["--inline"]
        return TrialCommand(
            name=trial.name,
            words=tuple(str(word if not isinstance(word, Path) else word.absolute())
                        for word in words),
            run=trial.run.absolute(),
            log=(self.path / TRIALS / f"{trial.name}.log").absolute(),
            stop=(self.path / STOP).absolute(),
            folder=Path.cwd(),
            cores=self.file.cores if place.inline else 0,
            every_env_steps=self.every_env_steps,
            last_env_steps=limit if limit is not None else float("inf"),
        )  # fmt: skip


def past_trial(trial: TrialRecord, metric: str) -> PastTrial:
    """The scores of a trial, from the files of its run."""
    results: list[dict[str, Any]] = []
    with suppress(UserError, OSError):  # it has no report
        results = results_of(read_metrics(trial.run), metric)
    return PastTrial(trial.parameters, results, trial.status == "failed")

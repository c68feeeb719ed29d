"""Study files and study folders for tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from deploy.runs.study_folder import RUNS, StudyRecord, TrialRecord, save_study

REPORT = {
    "env_steps_per_s": 0.0, "learner_steps_per_s": 0.0, "samples_per_insert": 1.0, "loss": None,
    "epsilon": 0.1, "episodes": [], "learner_steps": 10,
}  # fmt: skip
"""The keys of every line of metrics.jsonl beside the numbers of a test."""


def write_study_file(folder: Path, text: str, name: str = "sweep.toml") -> Path:
    """A study file."""
    path = folder / name
    path.write_text(text)
    return path


def write_run(run: Path, *reports: dict, summary: dict | None = None) -> None:
    """A run folder with these reports."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text("")
    lines = [json.dumps({**REPORT, "wall_s": 1.0, "score": None, **report}) for report in reports]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if summary is not None:
        (run / "summary.json").write_text(json.dumps(summary))


def trial(folder: Path, name: str = "cartpole-s1", **values) -> TrialRecord:
    """A trial of the study in a folder."""
    record = TrialRecord(name, "cartpole", "", 1, folder / RUNS / name, {"seed": 1})
    return replace(record, **values)


def write_study(folder: Path, *trials: TrialRecord, total: int = 0) -> StudyRecord:
    """A study folder with these trials."""
    folder.mkdir(parents=True, exist_ok=True)
    record = StudyRecord("sweep", folder, "score", list(trials), max(total, len(trials)))
    save_study(record)
    return record

"""Trials of a study that hardly run, such as one whose core another program keeps busy."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from statistics import median

from deploy.runs.folder import SUMMARY
from deploy.runs.pace import pace_of
from deploy.runs.study_folder import TRIALS, StudyRecord, TrialRecord

IDLE_S = 60.0
"""Seconds without an env step after which a trial counts as slow."""
SLOW_SHARE = 0.1
"""A trial with less than this share of the other trials' env steps/s counts as slow."""
LOOK_EVERY_S = 10.0


def slow_trials(record: StudyRecord) -> dict[str, str]:
    """The trials in progress that hardly make env steps, by name, each with a sentence.

    A trial is compared with the others of its preset: those in progress, by the last minute in
    which they learnt, and those that are finished, by their mean.
    """
    rates: dict[str, float] = {}
    slow: dict[str, str] = {}
    for trial in record.trials:
        rate = None
        if trial.status == "running":
            pace = pace_of(trial.run, record.path / TRIALS / f"{trial.name}.toml")
            rate = pace.env_steps_per_s
            if pace.idle_s >= IDLE_S:
                slow[trial.name] = (
                    f"no env step for {pace.idle_s:,.0f} s; another program may keep its core "
                    "busy, or its environment hangs"
                )
        elif trial.status == "finished":
            rate = _mean_rate(trial)
        if rate is not None:
            rates[trial.name] = rate
    for trial in record.trials:
        others = [
            rates[other.name]
            for other in record.trials
            if other.preset == trial.preset and other.name in rates and other.name != trial.name
        ]
        if trial.status != "running" or trial.name not in rates or not others:
            continue
        usual, rate = median(others), rates[trial.name]
        if rate < SLOW_SHARE * usual:
            slow.setdefault(
                trial.name,
                f"its env steps come at {rate:,.0f}/s, those of other trials of {trial.preset} at "
                f"{usual:,.0f}/s; another program may keep its core busy",
            )
    return slow


def _mean_rate(trial: TrialRecord) -> float | None:
    """Env steps per second of a run that has ended."""
    with suppress(OSError, ValueError, AttributeError):
        summary = json.loads((trial.run / SUMMARY).read_text(encoding="utf-8"))
        rate = summary.get("env_steps_per_s")
        return float(rate) if isinstance(rate, int | float) and rate > 0 else None
    return None


class SlowTrials:
    """The slow trials of a study in progress, looked up every few seconds."""

    def __init__(self) -> None:
        """No trial is known yet."""
        self._found: dict[str, str] = {}
        self._looked_s = time.monotonic()

    def look(self, record: StudyRecord) -> dict[str, str]:
        """As `slow_trials`, a few seconds old at the most."""
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._found = slow_trials(record)
        running = {trial.name for trial in record.trials if trial.status == "running"}
        return {name: text for name, text in self._found.items() if name in running}

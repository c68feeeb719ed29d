"""The view, the status and its JSON name a trial that hardly makes env steps."""

from __future__ import annotations

import io
import json
import os
import time

import pytest
from rich.console import Console

from deploy.reporting import slow_trials as slow_trials_module
from deploy.reporting.slow_trials import slow_trials
from deploy.reporting.study_view import make_study_view, show_study, study_summary
from support.studies import trial, write_run, write_study


def running(folder, name="slow", rate=10, seconds=40, age_s=0.0, preset="cartpole", **last):
    """A trial in progress: so many env steps per second over so many seconds."""
    record = trial(folder, name, status="running", preset=preset)
    reports = [
        {"wall_s": 100.0 + t, "env_steps": rate * t, "loss": 0.1, "evaluating": False}
        for t in range(seconds)
    ]
    write_run(record.run, *reports[:-1], {**reports[-1], **last})
    toml = folder / "trials" / f"{name}.toml"
    toml.parent.mkdir(exist_ok=True)
    toml.write_text("")
    for file in (toml, record.run / "metrics.jsonl"):
        os.utime(file, (time.time() - age_s,) * 2)
    return record


def finished(folder, name="done", rate=1_000, preset="cartpole"):
    record = trial(folder, name, status="finished", preset=preset)
    write_run(record.run, {"env_steps": 9}, summary={"env_steps_per_s": rate})
    return record


def test_a_trial_with_a_tenth_of_the_rate_of_the_others_is_told(tmp_path):
    study = write_study(tmp_path, running(tmp_path), finished(tmp_path))
    assert slow_trials(study) == {
        "slow": "its env steps come at 10/s, those of other trials of cartpole at 1,000/s; "
        "another program may keep its core busy"
    }


@pytest.mark.parametrize(
    "others",
    [
        {"rate": 90},  # not slow enough
        {"rate": 1_000, "preset": "pong"},  # another task
    ],
)
def test_it_is_compared_with_trials_of_its_preset(tmp_path, others):
    assert slow_trials(write_study(tmp_path, running(tmp_path), finished(tmp_path, **others))) == {}
    assert slow_trials(write_study(tmp_path, running(tmp_path))) == {}


@pytest.mark.parametrize(
    "own",
    [
        {"evaluating": True},
        {"loss": None},
        {"seconds": 15},  # too short to judge
    ],
)
def test_a_trial_that_evaluates_warms_up_or_has_just_begun_is_not_judged(tmp_path, own):
    study = write_study(tmp_path, running(tmp_path, **own), finished(tmp_path))
    assert slow_trials(study) == {}


def test_a_trial_without_a_step_for_a_minute_is_told(tmp_path):
    silent = running(tmp_path, "silent", age_s=75)
    stuck = running(tmp_path, "stuck", rate=0, seconds=101)
    long = running(tmp_path, "long", rate=0, seconds=101, evaluating=True)
    found = slow_trials(write_study(tmp_path, silent, stuck, long))
    assert {name: text.partition(";")[0] for name, text in found.items()} == {
        "silent": "no env step for 75 s",
        "stuck": "no env step for 100 s",
    }
    os.utime(tmp_path / "trials" / "silent.toml")  # resumed now: its reports are old
    assert "silent" not in slow_trials(write_study(tmp_path, silent))


def test_the_view_tells_it_once_and_the_status_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(slow_trials_module, "LOOK_EVERY_S", 0.0)
    study = write_study(tmp_path, running(tmp_path, age_s=75))
    stream, console = io.StringIO(), Console(file=io.StringIO(), width=200)
    view = make_study_view(stream)
    for _ in range(3):
        view.update(study)
    assert stream.getvalue().count("slow: no env step for 75 s;") == 1
    show_study(study, console)
    assert "slow: no env step for 75 s;" in console.file.getvalue()
    assert list(json.loads(json.dumps(study_summary(study)))["slow"]) == ["slow"]

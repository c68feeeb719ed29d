"""Output of `raydqn status`."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from common.errors import UserError
from deploy.reporting.status import PartStatus, run_status, show

LINE = {
    "wall_s": 12.0, "env_steps": 1_000, "learner_steps": 10, "env_steps_per_s": 80.0,
    "learner_steps_per_s": 1.5, "score": None, "restarts": 3, "limiter": "balanced",
}  # fmt: skip
LEARNER = PartStatus("learner", 2, "gpu-1", 12, "up", 1.5, "learner steps/s", 9.0, 1)
EVENTS = [
    {"at": "2026-01-01T12:00:00.000+00:00", "level": "INFO", "text": "attempt 1", "detail": ""},
    {"at": "2026-01-01T12:00:09.000+00:00", "level": "WARNING", "text": "[x] died", "detail": "a"},
]


def shown(status, running=True):
    console = Console(file=io.StringIO(), width=60)
    show(status, running, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("running", [True, False])
def test_the_log_and_its_last_events_stand_below_one_line_each(running):
    status = {**run_status("mine", LINE, [LEARNER]), "log": "runs/mine/run.log", "events": EVENTS}
    lines = shown(status, running)
    assert ("learner" in lines[2]) == running
    assert lines[-3:] == [
        "log: runs/mine/run.log",
        "  2026-01-01T12:00:00.000+00:00 INFO attempt 1",
        "  2026-01-01T12:00:09.000+00:00 WARNING [x] died",
    ]


def test_a_run_without_a_log_has_no_line_for_it():
    status = run_status("mine", LINE, [LEARNER])
    assert shown(status) == shown({**status, "log": None, "events": []})
    assert not any("log" in line for line in shown(status))


@pytest.mark.parametrize("events", [3, [3], [{}], {"a": 1}, "x"])
def test_events_that_are_none_are_refused_in_one_line(events):
    status = {**run_status("mine", LINE, []), "log": "x", "events": events}
    with pytest.raises(UserError, match="not a status of a run") as caught:
        shown(status)
    assert "\n" not in str(caught.value)

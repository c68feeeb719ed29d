"""Output of `raydqn status`."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from common.errors import UserError
from deploy.reporting.status import PartStatus, run_status, show

LINE = {
    "wall_s": 12.0, "env_steps": 1_000, "learner_steps": 10, "env_steps_per_s": 80.0,
    "learner_steps_per_s": 1.5, "score": None, "restarts": 3, "limiter": "balanced",
}  # fmt: skip
LEARNER = PartStatus("learner", 2, "gpu-1", 12, "ready", 1.5, "learner steps/s", 9.0, 1)
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
    assert any(line.startswith("learner ") for line in lines) == running
    assert lines[-3:] == [
        "log: runs/mine/run.log",
        "  2026-01-01T12:00:00.000+00:00 INFO attempt 1",
        "  2026-01-01T12:00:09.000+00:00 WARNING [x] died",
    ]


OPERATED = LINE | {
    "device": "cuda:0 (NVIDIA A10G), torch 2.13.0+cu130", "actors": 8, "actors_up": 7,
    "limiter": "learner waits for actors", "checkpoints": 4, "checkpoint_age_s": 42.0,
    "checkpoints_failed": 1, "lost_with_nodes": 3,
}  # fmt: skip


def test_an_operator_sees_device_waiting_side_actors_and_checkpoints():
    lines = shown(run_status("mine", OPERATED, [LEARNER]))
    assert lines[1:3] == [
        "  learner on cuda:0 (NVIDIA A10G), torch 2.13.0+cu130; 7 of 8 actors ready; learner waits "
        "for actors",
        "  last good checkpoint 42 s ago; failed checkpoints: 1; parts lost with their nodes: 3",
    ]
    none = run_status("mine", OPERATED | {"checkpoints": 0}, [LEARNER])
    assert shown(none)[2].startswith("  no checkpoint in this attempt yet; failed checkpoints: 1")


def test_the_last_restarts_are_told_newest_first_with_cause_and_time():
    now_s = time.time()
    parts = [
        replace(LEARNER, part=f"actor-{index}", restarted_at=now_s - 60.0 * index, cause="died: x")
        for index in range(1, 8)
    ]
    status = run_status("mine", OPERATED, [LEARNER, *parts])
    assert [one["part"] for one in status["last_restarts"]] == [f"actor-{i}" for i in range(1, 6)]
    assert shown(status)[3:5] == [
        "  restarted 60 s ago: actor-1 died: x",
        "  restarted 2 min ago: actor-2 died: x",
    ]


def test_the_age_of_a_checkpoint_counts_on_while_a_status_gets_old():
    status = run_status("mine", OPERATED, []) | {"at": time.time() - 600.0}
    assert "last good checkpoint 11 min ago" in shown(status)[2]


ENDED = {key: value for key, value in LINE.items() if not key.endswith("_per_s")}


@pytest.mark.parametrize(
    ("over", "first"),
    [
        (
            {"stop_reason": "wall_s"},
            "mine: ended after 12 s: stop.wall_s reached; 1,000 env steps, 10 learner steps, score "
            "none yet, restarts 3",
        ),
        (
            {"stop_reason": "interrupted", "score": 1.5},
            "mine: ended after 12 s: interrupted (SIGINT); 1,000 env steps, 10 learner steps, "
            "score 1.5, restarts 3",
        ),
        (
            {"stop_reason": "aborted"},
            "mine: ended after 12 s: stopped at once by a second signal; 1,000 env steps, 10 "
            "learner steps, score none yet, restarts 3",
        ),
        (
            {"stop_reason": "failed", "error": "actor-0 failed 4 times in a row"},
            "mine: failed: actor-0 failed 4 times in a row",
        ),
        (
            {},
            "mine: the driver ended without a summary after 12 s: 1,000 env steps, "
            "10 learner steps, score none yet, restarts 3, last reported 3 h ago",
        ),
    ],
)
def test_a_run_that_has_ended_says_how_without_rates(over, first):
    counted_s = time.time() - 3 * 3_600
    lines = shown({"run": "mine", "counters_at": counted_s, **ENDED, **over}, running=False)
    assert lines[0] == first
    assert lines[1:] == (
        ["  1,000 env steps, 10 learner steps, score none yet, restarts 3 after 12 s"]
        if "error" in over
        else []
    )


def test_a_run_that_ended_before_its_first_report_says_so():
    lines = shown({"run": "mine"}, running=False)
    assert lines == ["mine: the driver ended without a summary: it ended before its first report"]
    lines = shown({"run": "mine", "stop_reason": "failed", "error": "[x]"}, running=False)
    assert lines == ["mine: failed: [x]", "  it ended before its first report"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (75, "75 s"), (600, "10 min"), (10_800, "3 h"), (864_000, "10 days")],
)
def test_an_age_is_told_in_a_fitting_unit(seconds, words):
    lines = shown({"run": "mine", "counters_at": time.time() - seconds, **ENDED}, running=False)
    assert lines[0].endswith(f"last reported {words} ago")


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

"""The status of a run, read from its folder."""

from __future__ import annotations

import json

import pytest

from common.errors import UserError
from deploy.launch.presets import make_config
from deploy.reporting.status import run_status
from deploy.runs.folder import LOG, METRICS, STATUS, SUMMARY, RunFolder
from deploy.runs.metrics_file import REQUIRED, last_report
from deploy.runs.run_status import read_ended, read_status

LINE = {
    "wall_s": 12.0, "env_steps": 1_000, "learner_steps": 10, "env_steps_per_s": 80.0,
    "learner_steps_per_s": 1.5, "score": None, "restarts": 3, "limiter": "balanced",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", make_config("cartpole"))


def report(**values):
    return {**dict.fromkeys(REQUIRED), "restarts": 3, "limiter": "x", "episodes": [], **values}


def append(folder, *reports):
    with (folder.path / METRICS).open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in reports)


def test_the_newest_counters_are_those_of_the_last_report(folder):
    folder.write_status(run_status("run", LINE, []))
    written_s = read_status(folder)["at"]
    assert read_status(folder)["env_steps"] == 1_000
    # The status is written every two seconds only.
    append(folder, report(wall_s=11.0), report(wall_s=13.5, env_steps=1_200, score=7.0))
    for read in (read_status, read_ended):
        status = read(folder)
        assert (status["wall_s"], status["env_steps"], status["score"]) == (13.5, 1_200, 7.0)
        assert status["at"] == written_s, "ages of parts count from there"
        assert status["counters_at"] == pytest.approx(written_s + 1.5)
    (folder.path / METRICS).write_text("")
    append(folder, report(wall_s=11.0, env_steps=900))
    assert read_status(folder)["env_steps"] == 1_000, "reports could not be written any more"


def test_the_last_report_is_found_behind_a_line_that_is_cut_off_and_in_a_long_one(folder):
    assert last_report(folder.path) is None
    long = [[float(number), 10, 0.1] for number in range(20_000)]
    append(folder, report(wall_s=1.0), report(wall_s=2.0, episodes=long))
    with (folder.path / METRICS).open("a") as file:
        file.write('{"wall_s": 3.0, "env_st')
    assert last_report(folder.path)["wall_s"] == 2.0
    (folder.path / METRICS).write_text('{"wall_s": 3.0')
    assert last_report(folder.path) is None


def test_an_ended_run_has_its_reason_or_error_and_no_rates(folder):
    folder.write_status(run_status("run", LINE, []))
    ended = read_ended(folder)
    assert "stop_reason" not in ended, "the driver ended without a summary"
    assert not any(key.endswith("_per_s") for key in ended)
    folder.write_summary({"stop_reason": "failed", "error": "no part", "env_steps": 2_000})
    ended = read_ended(folder)
    assert (ended["stop_reason"], ended["error"]) == ("failed", "no part")
    assert (ended["env_steps"], ended["learner_steps"]) == (2_000, 10)
    folder.forget_end()
    folder.forget_end()
    assert "stop_reason" not in read_ended(folder), "the next attempt has begun"


def test_a_run_that_ended_before_its_first_report_has_a_status_without_counters(folder):
    with pytest.raises(UserError, match="no run has begun there"):
        read_ended(folder)
    (folder.path / LOG).write_text("2026-01-01T00:00:00.000+00:00 INFO attempt 1\n")
    ended = read_ended(folder)
    assert "wall_s" not in ended
    assert [event["text"] for event in ended["events"]] == ["attempt 1"]
    (folder.path / SUMMARY).write_text('{"stop_reason": "failed", "error": "no cluster"}')
    assert read_ended(folder)["error"] == "no cluster"


@pytest.mark.parametrize("content", ["[1]", "{", '"x"'])
def test_a_damaged_status_is_named(folder, content):
    (folder.path / STATUS).write_text(content)
    for read in (read_status, read_ended):
        with pytest.raises(UserError, match=STATUS):
            read(folder)


def test_without_a_status_the_error_names_the_log_if_there_is_one(folder):
    with pytest.raises(UserError, match=r"with the first report$"):
        read_status(folder)
    (folder.path / LOG).write_text("")
    with pytest.raises(UserError, match=f"with the first report; its log is {folder.path / LOG}$"):
        read_status(folder)

"""The folder of a study: written by one command, read by any."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading

import pytest

from common.errors import UserError
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import read_metrics
from deploy.runs.study_folder import check_folder, is_study, locked, read_study
from support.studies import trial, write_run, write_study


def test_a_study_is_read_as_it_was_written(tmp_path):
    done = trial(tmp_path, status="finished", score=9.5, best_score=10.0, env_steps=5, wall_s=2.0)
    failed = trial(tmp_path, "cartpole-s2", seed=2, status="failed", error="no")
    assert not is_study(tmp_path)
    write_study(tmp_path, done, failed, total=3)
    assert is_study(tmp_path)
    record = read_study(tmp_path)
    assert record.trials == [done, failed]
    assert (record.name, record.metric, record.running) == ("sweep", "score", False)
    assert [record.count(status) for status in ("finished", "failed", "pending")] == [1, 1, 1]


def test_a_study_that_was_moved_finds_its_runs(tmp_path):
    write_study(tmp_path / "old", trial(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_study(tmp_path / "new").trials[0].run == tmp_path / "new" / "runs" / "cartpole-s1"


def test_a_trial_that_runs_has_the_newest_numbers_of_its_run(tmp_path):
    running = trial(tmp_path, status="running", env_steps=1)
    write_run(running.run, {"env_steps": 5, "score": 1.0, "best_score": 2.0})
    write_study(tmp_path, running)
    with locked(tmp_path):
        found = read_study(tmp_path).trials[0]
        assert (found.status, found.env_steps, found.score, found.best_score) == (
            *("running", 5, 1.0, 2.0),
        )
    assert read_study(tmp_path).trials[0].status == "pending"  # its command was killed


def test_the_summary_of_a_run_counts_more_than_its_last_report(tmp_path):
    running = trial(tmp_path, status="running")
    write_run(running.run, {"env_steps": 5}, summary={"env_steps": 7, "score": 3.0})
    write_study(tmp_path, running)
    assert (read_study(tmp_path).trials[0].env_steps, read_study(tmp_path).trials[0].score) == (
        *(7, 3.0),
    )


def test_two_commands_do_not_run_one_study(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="another process is running"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):  # and it is free again
        pass


def test_a_look_at_a_study_does_not_keep_a_command_from_running_it(tmp_path):
    with (tmp_path / ".lock").open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        end = threading.Timer(0.05, lambda: fcntl.flock(look, fcntl.LOCK_UN))
        end.start()
        with locked(tmp_path):
            pass
        end.join()


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ({"format": 2}, "has format 2; must be 1"),
        ({"trials": [{"name": "../x", "status": "pending"}]}, "has the name '../x'"),
        ({"trials": [{"name": "x", "status": "odd"}]}, "has the status 'odd'"),
        ({"trials": [{"name": "x", "status": "pending"}]}, "is damaged"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, values, error):
    good = {"format": 1, "name": "x", "metric": "score", "total": 1, "trials": []}
    text = values if isinstance(values, str) else json.dumps(good | values)
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError, match=error) as caught:
        read_study(tmp_path)
    assert str(tmp_path / "study.json") in str(caught.value)


def test_a_folder_that_is_no_study_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not the folder of a study \(it has no study.json\)"):
        read_study(tmp_path)
    with pytest.raises(UserError, match=r"\(it is not there\)"):
        read_study(tmp_path / "x")


def test_it_is_read_without_ray():
    code = "import sys, deploy.runs.study_folder; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_gets_a_folder_of_its_own(tmp_path):
    check_folder(tmp_path / "new")
    with locked(tmp_path / "begun"):
        check_folder(tmp_path / "begun")
    write_study(tmp_path / "study", trial(tmp_path / "study"))
    check_folder(tmp_path / "study")
    write_run(tmp_path / "run")
    with pytest.raises(UserError, match="run: is not empty, and not the folder of a study"):
        check_folder(tmp_path / "run")


def test_a_study_is_meant_by_its_name_or_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "studies" / "sweep", trial(tmp_path / "studies" / "sweep"))
    for given in ("sweep", "sweep.toml"):
        with pytest.raises(UserError, match=r"; did you mean studies/sweep\?$"):
            read_study(tmp_path / given)
    with pytest.raises(UserError, match=r"\(it is not there\)$"):
        read_study(tmp_path / "other")


@pytest.mark.parametrize("read", [RunFolder.open, read_metrics])
def test_where_a_run_is_wanted_a_study_tells_its_runs(tmp_path, read):
    write_study(tmp_path, trial(tmp_path))
    with pytest.raises(
        UserError, match=rf"run folder \(it is a study; its runs are in {tmp_path}/r"
    ):
        read(tmp_path)
    with pytest.raises(UserError, match=r"not a run folder \(it is a file\)"):
        read(tmp_path / "study.json")

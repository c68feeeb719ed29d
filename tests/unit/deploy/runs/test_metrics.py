from __future__ import annotations

import json
import math

import numpy as np
import pytest

from common import wire
from common.errors import UserError
from common.types import EvaluationReport
from deploy.launch.run import make_config
from deploy.runs.metrics import CONTROL, REQUIRED, MetricsWriter, Rate, RunFolder, read_metrics


def evaluation(score: float) -> EvaluationReport:
    weights = wire.encode({"layers.0.weight": np.full((2, 3), score, np.float32)})
    return EvaluationReport(
        version=3, learner_steps=40, score=score, returns=[score] * 4, lengths=[1] * 4,
        epsilon=0.0, wall_s=0.1, weights=weights,
    )  # fmt: skip


def test_a_run_folder_is_made_once_and_reads_back(tmp_path):
    config = make_config("cartpole", overrides={"seed": 4, "stop": {"score": None}})
    RunFolder.create(tmp_path / "run", config)
    assert RunFolder.open(tmp_path / "run").config == config
    assert RunFolder.open(tmp_path / "run", {"seed": 5}).config.seed == 5
    with pytest.raises(UserError, match="resume it"):
        RunFolder.create(tmp_path / "run", config)


def test_an_empty_folder_may_become_a_run(tmp_path):
    RunFolder.create(tmp_path, make_config("cartpole"))
    assert (tmp_path / "config.toml").is_file()


def test_the_best_weights_read_back_with_their_score(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    assert folder.load_best() is None
    folder.save_best(evaluation(12.5))
    weights, meta = folder.load_best()
    arrays, wire_meta = wire.decode(weights)
    assert np.array_equal(arrays["layers.0.weight"], np.full((2, 3), 12.5, np.float32))
    assert meta["score"] == "12.5"
    assert wire_meta["learner_steps"] == 40
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_a_metrics_line_is_whole_json_and_nan_becomes_null(tmp_path):
    RunFolder.create(tmp_path / "run", make_config("cartpole"))
    writer = MetricsWriter(tmp_path / "run")
    writer.write({"learner_steps": 1, "loss": math.nan, "score": math.inf, "episodes": []})
    writer.write({"learner_steps": 2, "loss": 0.5, "score": 3.0, "episodes": [[1.0, 2, 0.1]]})
    writer.close()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [json.loads(line)["loss"] for line in text.splitlines()] == [None, 0.5]


LINE = dict.fromkeys(REQUIRED, 1.0) | {"episodes": []}


def test_only_whole_reports_are_read(tmp_path):
    RunFolder.create(tmp_path / "run", make_config("cartpole"))
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b'\n123\n{"a": 1}\n\xff\xfe\n{"wall_s": 2.')
    assert read_metrics(tmp_path / "run") == [LINE]
    path.write_text("")
    with pytest.raises(UserError, match="no reports yet"):
        read_metrics(tmp_path / "run")


def test_a_line_that_a_kill_cut_off_does_not_swallow_the_next(tmp_path):
    RunFolder.create(tmp_path / "run", make_config("cartpole"))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"wall_s": 2.')
    writer = MetricsWriter(tmp_path / "run")
    writer.write(LINE | {"learner_steps": 7})
    writer.close()
    assert read_metrics(tmp_path / "run") == [LINE | {"learner_steps": 7}]


def test_nan_is_null_at_any_depth(tmp_path):
    RunFolder.create(tmp_path / "run", make_config("cartpole"))
    writer = MetricsWriter(tmp_path / "run")
    writer.write(
        LINE | {"learner_steps": 7, "episodes": [[math.nan, 1, 0.5]], "by": {"x": math.inf}}
    )
    writer.close()
    (line,) = read_metrics(tmp_path / "run")
    assert line["episodes"] == [[None, 1, 0.5]]
    assert line["by"] == {"x": None}


def test_two_processes_cannot_run_in_one_folder(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    with folder.lock(), pytest.raises(UserError, match="another process"), folder.lock():
        pass
    with folder.lock():
        assert [folder.new_attempt() for _ in range(3)] == [0, 1, 2]


def test_a_folder_knows_whether_its_run_goes_on_and_asking_leaves_no_trace(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    assert not folder.is_running()
    (folder.path / ".lock").unlink()  # as in a folder that was copied
    assert not folder.is_running()
    assert {path.name for path in folder.path.iterdir()} == {"config.toml"}
    with folder.lock():
        assert folder.is_running()
        assert folder.is_running(), "to ask does not take the lock away"
    assert not folder.is_running()
    with folder.lock():
        pass


def test_a_change_that_nobody_took_does_not_keep_the_folder_of_a_run_that_did_not_begin(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    (folder.path / CONTROL).write_text("")
    folder.discard_unless_used()
    assert not folder.path.exists()


def test_of_two_that_begin_in_one_folder_the_second_is_refused_and_disturbs_nothing(
    tmp_path, monkeypatch
):
    # Both have looked, and found it free.
    monkeypatch.setattr("deploy.runs.metrics.check_free", lambda path: None)
    for path in (tmp_path / "new", tmp_path):
        RunFolder.create(path, make_config("cartpole", overrides={"seed": 7}))
        with pytest.raises(UserError, match=f"--run-dir={path}: already holds something"):
            RunFolder.create(path, make_config("cartpole", overrides={"seed": 8}))
        assert RunFolder.open(path).config.seed == 7


def test_a_folder_is_discarded_only_if_nobody_runs_in_it(tmp_path):
    path = tmp_path / "run"
    folder = RunFolder.create(path, make_config("cartpole"))
    with RunFolder.open(path).lock():
        folder.discard_unless_used()
        assert (path / "config.toml").is_file()
    folder.discard_unless_used()
    assert not path.exists()
    folder.discard_unless_used()  # gone already


def test_an_empty_folder_of_the_users_is_empty_again_and_stays(tmp_path):
    RunFolder.create(tmp_path, make_config("cartpole")).discard_unless_used()
    assert list(tmp_path.iterdir()) == []


def test_a_run_was_started_as_often_as_is_known_for_certain(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    assert folder.new_attempt(least=3) == 3
    assert folder.new_attempt(least=1) == 4
    assert folder.new_attempt() == 5


@pytest.mark.parametrize("content", [b"", b"many", b"-1", b"1.5", b"\xff\xfe"])
def test_a_count_of_lives_that_is_damaged_is_named(tmp_path, content):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    (tmp_path / "run" / "lives").write_bytes(content)
    with pytest.raises(UserError, match=r"run/lives: .*whole number") as caught:
        folder.new_attempt()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("apart_s", [1.0, 20.0, 300.0])
def test_a_rate_is_known_however_far_reports_are_apart(apart_s):
    rate = Rate(window_s=10.0)
    for number in range(6):
        rate.add(number * apart_s, 5.0 * number * apart_s)
        for share in (0.0, 0.5, 0.99):  # looked at right after a report, and before the next
            now_s = (number + share) * apart_s
            if number and now_s:
                assert 5.0 * 0.49 < rate.per_s(now_s) <= 5.0 * 1.001
    assert rate.per_s(5 * apart_s) == pytest.approx(5.0)
    assert rate.per_s(50 * apart_s + 10) == 0.0


def test_a_rate_is_of_the_last_seconds_only_and_falls_when_nothing_happens():
    rate = Rate(window_s=10.0)
    assert rate.per_s(0.0) == 0.0
    for second in range(100):
        rate.add(float(second), 5.0 * second)
    assert rate.per_s(99.0) == pytest.approx(5.0)
    assert 0 < rate.per_s(104.0) < 5.0
    assert rate.per_s(200.0) == 0.0
    assert rate.per_s(200.0) == 0.0

"""Reports of a run, written and read back; rates."""

from __future__ import annotations

import json
import math

import pytest

from common.errors import UserError
from deploy.launch.presets import make_config
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import REQUIRED, MetricsWriter, Rate, read_metrics


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


def test_a_rate_is_never_negative_where_a_total_falls_back():
    # A learner that is restored from a checkpoint counts from there again: 100 steps, then 40.
    rate = Rate(window_s=10.0)
    for second, count in enumerate([0.0, 50.0, 100.0, 40.0, 90.0, 140.0]):
        rate.add(float(second), count)
        assert rate.per_s(float(second)) >= 0
    assert rate.increase == 200.0  # of work really done: 100 before, 100 after
    assert rate.per_s(5.0) == pytest.approx(200.0 / 5)


def test_a_rate_is_of_the_last_seconds_only_and_falls_when_nothing_happens():
    rate = Rate(window_s=10.0)
    assert rate.per_s(0.0) == 0.0
    for second in range(100):
        rate.add(float(second), 5.0 * second)
    assert rate.per_s(99.0) == pytest.approx(5.0)
    assert 0 < rate.per_s(104.0) < 5.0
    assert rate.per_s(200.0) == 0.0
    assert rate.per_s(200.0) == 0.0

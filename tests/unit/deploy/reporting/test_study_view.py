"""A study on a terminal, in plain lines, and as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from deploy.reporting import study_view
from deploy.reporting.study_view import (
    LiveStudyView,
    PlainStudyView,
    best_trial,
    make_study_view,
    show_study,
    study_summary,
    study_table,
    totals,
)
from support.studies import trial, write_study


def study(tmp_path):
    return write_study(
        tmp_path,
        trial(
            tmp_path, "a", status="finished", score=5.0, best_score=9.0, env_steps=1_000, wall_s=75
        ),
        trial(tmp_path, "b", status="running", score=7.0, best_score=7.0, env_steps=1, wall_s=5),
        trial(tmp_path, "c", status="failed", error="no luck"),
        total=4,
    )


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_the_totals_are_one_line(tmp_path):
    assert totals(study(tmp_path)) == (
        "study sweep: 2 of 4 trials over (1 pending, 1 running, 1 finished, 1 failed); best score "
        "7.0: b; 1,001 env steps, 1:20 in all runs"
    )


def test_the_table_has_each_trial(tmp_path):
    lines = text_of(study_table(study(tmp_path))).splitlines()
    assert lines[0].split() == ["trial", "status", "env", "steps", "score", "best", "wall"]
    assert lines[1].split() == ["a", "finished", "1,000", "5.0", "9.0", "1:15"]
    assert lines[3].split() == ["c", "failed", "0", "–", "–", "0:00"]


def test_a_long_table_begins_with_the_trials_that_run(tmp_path):
    lines = text_of(study_table(study(tmp_path), limit=2)).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["b", "c", "…"]
    assert "… and 1 trial more" in lines[3]


def test_the_best_trial_is_that_of_the_metric_and_of_one_preset(tmp_path):
    record = study(tmp_path)
    assert best_trial(record).name == "b"
    assert best_trial(replace(record, metric="best_score")).name == "a"
    record.trials.append(trial(tmp_path, "d", preset="pong"))
    assert best_trial(record) is None


def test_the_summary_is_json(tmp_path):
    summary = json.loads(json.dumps(study_summary(study(tmp_path))))
    assert (summary["total"], summary["finished"], summary["pending"], summary["best"]) == (
        *(4, 1, 1, "b"),
    )
    assert summary["trials"][2]["error"] == "no luck"
    assert summary["trials"][0]["run"] == str(tmp_path / "runs" / "a")


def test_plain_lines_tell_what_changes(tmp_path, monkeypatch):
    stream, record = io.StringIO(), study(tmp_path)
    view = make_study_view(stream)
    assert isinstance(view, PlainStudyView)
    view.update(record)
    assert stream.getvalue() == ""  # how the study was found
    record.trials[1] = replace(record.trials[1], status="finished")
    view.update(record)
    view.update(record)
    assert stream.getvalue() == "b: finished after 0:05; score 7.0 (best 7.0), 1 env step\n"
    record.trials[2] = replace(record.trials[2], status="running", error="")
    view.update(record)
    assert stream.getvalue().splitlines()[1:] == ["c: running"]
    monkeypatch.setattr(study_view, "PLAIN_EVERY_S", 0.0)
    view.update(record)
    assert stream.getvalue().splitlines()[-1].startswith("study sweep: 2 of 4 trials over")
    view.close()


def test_a_terminal_has_one_table_and_lines_above(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    view = make_study_view(stream)
    assert isinstance(view, LiveStudyView)
    view.update(study(tmp_path))
    view.notify("a line [b]")
    view.close()
    assert "a line [b]" in stream.getvalue()
    assert "finished" in stream.getvalue()


def test_a_study_is_shown_with_the_errors_of_its_trials(tmp_path):
    console = Console(file=io.StringIO(), width=60)
    show_study(study(tmp_path), console)
    assert console.file.getvalue().splitlines()[-1] == "c: no luck"

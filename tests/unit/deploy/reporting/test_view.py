from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from common.config_sections import StopConfig
from deploy.reporting.view import (
    LiveView,
    PlainView,
    Progress,
    duration,
    live_table,
    make_view,
    number,
)


def report(**over):
    values = {
        "wall_s": 30.0, "env_steps": 2_000, "learner_steps": 400, "env_steps_per_s": 100.0,
        "learner_steps_per_s": 20.0, "score": math.nan, "best_score": -math.inf,
        "evaluating": False, "return_mean_100": 21.5,
        "replay_size": 1_900, "data_age": 800.0, "weight_lag": 2.5,
        "loss": 0.25, "td_error": 0.5, "mean_q": 9.0, "epsilon": 0.1,
        "samples_per_insert": 7.9, "limiter": "balanced: 7.90 samples per insert, 8 wanted",
        "actors": 2, "actors_up": 2,
    }  # fmt: skip
    return values | over


def after(stop, *reports):
    progress = Progress(StopConfig(**stop))
    for one in reports:
        progress.update(one)
    return progress


@pytest.mark.parametrize(
    ("stop", "over", "done", "left"),
    [
        ({"learner_steps": 800}, {}, 0.5, 20.0),
        ({"env_steps": 8_000}, {}, 0.25, 60.0),
        ({"wall_s": 40.0}, {}, 0.75, 10.0),
        ({"learner_steps": 800, "env_steps": 2_500}, {}, 0.8, 5.0),  # the nearer one
        ({"score": 200.0}, {"score": 50.0}, 0.25, None),  # a score has no ETA
        ({"score": 200.0}, {"score": 300.0}, 1.0, None),
        ({"score": -100.0}, {"score": -200.0}, 0.0, None),
        ({"env_steps": 8_000}, {"env_steps": 1_000}, 0.125, None),  # none since the one before
        ({}, {}, 0.0, None),
    ],
)
def test_progress_is_towards_the_nearest_stop(stop, over, done, left):
    before = report(wall_s=20.0, env_steps=1_000, learner_steps=200)
    progress = after(stop, before, report(**over))
    assert (progress.share, progress.left_s) == (pytest.approx(done), left)


def test_the_time_left_is_that_of_learning():
    """Before it, the environment steps many times as fast: the time left would rise."""
    stop = {"env_steps": 101_000}
    warming = [report(wall_s=t, env_steps=1_000 * t, loss=math.nan) for t in (0.5, 1.0)]
    assert after(stop, *warming).left_s is None
    first = report(wall_s=2.0, env_steps=1_000, env_steps_per_s=1_000.0)
    assert after(stop, *warming, first, report(wall_s=3.0, env_steps=1_100)).left_s is None
    progress = after(stop, *warming, first, report(wall_s=12.0, env_steps=2_000))
    assert progress.left_s == pytest.approx(99_000 / 100)
    progress.update(report(wall_s=22.0, env_steps=2_000, evaluating=True))
    assert progress.left_s == pytest.approx(99_000 / 50)  # evaluations take their time, too


def test_the_progress_shown_never_falls(monkeypatch):
    """A score may fall, and a restored learner repeats steps."""
    monkeypatch.setattr("deploy.reporting.view.PLAIN_EVERY_S", 0.0)
    stop, lines, table = StopConfig(score=100.0, learner_steps=1_000), io.StringIO(), io.StringIO()
    for view in (PlainView(stop, lines), LiveView(stop, table)):
        for score, steps in ((30.0, 100), (28.0, 90)):
            view.update(report(score=score, learner_steps=steps))
        view.close()
    shown = [line.split("%")[0].split()[-1] for line in lines.getvalue().splitlines()]
    assert shown == ["30", "30"]
    assert " 30%" in table.getvalue()
    assert "28%" not in table.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    stream = io.StringIO()
    view = make_view(StopConfig(learner_steps=800, wall_s=50.0), stream)
    assert isinstance(view, PlainView)
    view.update(report())
    view.update(report(learner_steps=500))  # too soon after the first: held back
    view.notify("actor 1 was replaced: out of memory")
    view.update(report(learner_steps=800))
    view.close()
    first, message, last = stream.getvalue().splitlines()
    assert "60% ETA 0:20" in first
    assert "learner steps 400 (20/s)" in first
    assert "score –" in first
    assert message == "actor 1 was replaced: out of memory"
    assert "learner steps 800" in last, "the last report is never lost"
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_the_live_table():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    view = make_view(StopConfig(learner_steps=800), Terminal())
    assert isinstance(view, LiveView)
    view.update(report())
    view.close()


def test_the_live_table_shows_progress_score_speeds_and_loss():
    console = Console(file=io.StringIO(), width=120)
    stop = StopConfig(learner_steps=800, wall_s=50.0)
    console.print(live_table(report(score=123.4), stop, after({"wall_s": 50.0}, report())))
    text = console.file.getvalue()
    for part in ("60%", "ETA 0:20", "123.4", "100/s", "20/s", "7.90 samples per insert", "0.2500"):
        assert part in text


@pytest.mark.parametrize(("up", "said"), [(0, "8 wanted; 0 of 2 actors ready"), (2, "8 wanted")])
def test_both_views_count_the_ready_actors_until_all_are(up, said):
    console, stream = Console(file=io.StringIO(), width=120), io.StringIO()
    console.print(live_table(report(actors_up=up), StopConfig(), after({})))
    PlainView(StopConfig(), stream).update(report(actors_up=up))
    for text in (console.file.getvalue(), stream.getvalue()):
        assert text.rstrip().endswith(said)


def test_a_missing_value_is_a_dash_in_the_live_table():
    console = Console(file=io.StringIO(), width=120)
    unknown = dict.fromkeys(("replay_size", "data_age", "weight_lag", "loss", "mean_q"), math.nan)
    console.print(live_table(report(**unknown), StopConfig(learner_steps=800), after({})))
    text = console.file.getvalue()
    assert "nan" not in text
    assert "data – inserts old" in text


def test_numbers_and_durations_read_well():
    assert number(None) == number(math.nan) == number(math.inf) == "–"
    assert number(1234.56) == "1,234.6"
    assert duration(75) == "1:15"
    assert duration(3_700) == "1:01:40"

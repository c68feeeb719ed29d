"""Aggregates over games: only of runs that are alike, and of equally many runs of each game."""

from __future__ import annotations

import pytest

from deploy.reporting.aggregate import of_tasks
from deploy.reporting.human_scores import normalised
from deploy.reporting.report import Options, markdown, write_report
from support.report_runs import PONG, made_up_run

ACTIONS = {"Pong": 6, "Breakout": 4}


def game_run(folder, game, seed, score, preset="pong", overrides=None, **protocol):
    env = {"id": f"ALE/{game}-v5", **(overrides or {})}
    known = {**PONG, "env": env["id"], "actions": ACTIONS[game], **protocol}
    made_up_run(folder / f"{game}{seed}{preset}", seed, (None, score), {"env": env}, preset, known)


def report_on(*paths, **options):
    return write_report(paths, [], Options(film=False, **options))


def test_presets_that_differ_are_not_one_method(tmp_path):
    for seed in (1, 2):
        game_run(tmp_path, "Pong", seed, 14.6)
        game_run(tmp_path, "Breakout", seed, 30.5, "atari", sticky_actions=0.0)
    view = report_on(tmp_path)
    assert [group.label for task in view.tasks for group in task.groups] == [
        "one configuration"
    ] * 2
    assert view.overall == []
    assert view.numbers["human_normalised"] == []
    (remark,) = [reason for name, reason in view.problems if name == "all games"]
    assert remark.startswith("2 configurations not averaged over games: ")


@pytest.mark.parametrize("other", [{"stack": 1}, {"picture": "42×42 grey"}])
def test_protocols_that_differ_are_not_one_method(tmp_path, other):
    game_run(tmp_path, "Pong", 1, 14.6)
    game_run(tmp_path, "Breakout", 1, 30.5, **other)
    assert report_on(tmp_path).overall == []


def test_games_of_other_numbers_of_actions_are_aggregated_by_configuration(tmp_path):
    for game, scores in (("Pong", (14.6, -20.7)), ("Breakout", (30.5, 1.7))):
        for sticky, score in zip((0.25, 0.0), scores, strict=True):
            over = {"sticky_actions": sticky}
            preset = "pong" if sticky else "breakout"
            folder = tmp_path / preset
            folder.mkdir(exist_ok=True)
            game_run(folder, game, 1, score, "pong", over, sticky_actions=sticky)
    view = report_on(tmp_path / "pong", tmp_path / "breakout")
    assert {label: mean.value for label, _, mean, _, _ in view.overall} == {
        "one configuration (env.sticky_actions = 0.25)": "1.000",
        "one configuration (env.sticky_actions = 0.0)": "0.000",
    }
    view = report_on(tmp_path / "pong", tmp_path / "breakout", compare=True)
    assert [label for label, *_ in view.overall] == ["pong", "breakout"]


def test_each_game_counts_with_equally_many_runs(tmp_path):
    scores = {"Pong": {4: -10.0, 5: -20.0}, "Breakout": {1: 10.0, 2: 20.0, 3: 30.0, 5: 50.0}}
    for game, by_seed in scores.items():
        for seed, score in by_seed.items():
            game_run(tmp_path, game, seed, score)
    view = report_on(tmp_path)
    chosen = {"Pong": (-20.0, -10.0), "Breakout": (50.0, 10.0)}  # seed 5 is shared
    expected = of_tasks([[normalised(game, one) for one in few] for game, few in chosen.items()])
    (numbers,) = view.numbers["human_normalised"]
    assert sorted(numbers["games"]) == ["Breakout", "Pong"]
    for name in ("mean", "median", "iqm"):
        assert numbers[name] == pytest.approx(getattr(expected, name).value)
    assert list(numbers["runs_left_out"].values()) == [2]
    assert "the aggregate leaves out 2 runs of " in markdown(view, "files")

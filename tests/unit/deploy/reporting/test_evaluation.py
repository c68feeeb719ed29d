"""Playing with the weights of a run, apart from it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from actors.environments import Environment
from actors.evaluator import Evaluator
from common.config_toml import merge
from common.errors import UserError
from common.handles import InlineHandle
from common.weights import WeightStore
from deploy.cli.main import main
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.reporting.evaluation import (
    PAGE_PICTURES,
    _colours_of,
    evaluate,
    film,
    film_episode,
    small_gif,
)
from deploy.reporting.protocol import explain
from deploy.runs.folder import RunFolder
from support.program import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    over = {"stop": {"learner_steps": 20}, "evaluation": {"episodes": 5, "envs": 5}}
    train(make_config("cartpole", overrides=merge(TINY, over)), run)
    return RunFolder.open(run)


def test_other_episodes_are_played_than_the_run_was_scored_with(folder, monkeypatch):
    seeds, reset = [], Environment.reset

    def noted(self, seed=None):
        seeds.append(seed)
        return reset(self, seed)

    monkeypatch.setattr(Environment, "reset", noted)
    evaluator = Evaluator(folder.config, InlineHandle(WeightStore()))
    evaluator.play(1)
    evaluator.close()
    first, second = (evaluate(folder, 3) for _ in range(2))
    in_run, *by_command = seeds
    assert in_run not in by_command
    assert len(set(by_command)) == 1, "the command itself repeats: its score can be checked"
    assert first["score"] == second["score"]


def test_an_environment_that_cannot_be_filmed_says_why(folder, tmp_path, monkeypatch):
    def no_screen(self):
        raise OSError("no screen")

    monkeypatch.setattr(
        "gymnasium.envs.classic_control.cartpole.CartPoleVectorEnv.render", no_screen
    )
    with pytest.raises(UserError, match=r"--gif: .*render\(\) raised OSError: no screen"):
        film(folder, tmp_path / "film.gif")


def test_where_nothing_is_rendered_the_frames_themselves_are_filmed(tmp_path, monkeypatch):
    pixels = {"observation": "pixels", "width": 20, "height": 10}
    over = {"env": pixels, "stop": {"learner_steps": 1}, "evaluation": {"max_episode_steps": 3}}
    run = tmp_path / "run"
    train(make_config("cartpole", overrides=merge(TINY, over)), run)

    def no_pictures(self):
        raise NotImplementedError

    monkeypatch.setattr("actors.environments.copies.Copies.render", no_pictures)
    gif = tmp_path / "film.gif"
    film(RunFolder.open(run), gif)
    with Image.open(gif) as pictures:
        assert pictures.size == (2 * 160, 160)


def test_an_evaluation_tells_all_that_a_reviewer_asks_for(folder):
    result = evaluate(folder, 6)
    returns = result["returns"]
    assert len(returns) == len(result["lengths"]) == len(result["endings"]) == 6
    assert result["lengths"] == returns, "CartPole pays 1 per step"
    assert result["score"] == pytest.approx(sum(returns) / 6, abs=1e-3)
    assert (result["std"], result["std_over"]) == (pytest.approx(np.std(returns)), "episodes")
    assert result["median"] == sorted(returns)[2] / 2 + sorted(returns)[3] / 2
    assert result["iqm"] == pytest.approx(sum(sorted(returns)[1:-1]) / 4, abs=1e-3)
    low, high = result["interval"]
    assert min(returns) <= low <= result["score"] <= high <= max(returns)
    assert result["ended"] == {"terminated": 6}
    assert (result["run_seed"], result["copies"]) == (1, 5)
    assert result["env_seed"] > 0
    assert "neither clipped nor discounted" in result["protocol_in_words"][0]
    assert "Every action is greedy (ε = 0)." in result["protocol_in_words"]
    assert evaluate(folder, 1)["interval"] is None


def test_the_returns_of_all_episodes_are_written_to_a_file(folder, tmp_path, capsys):
    file = tmp_path / "returns.csv"
    assert main(("evaluate", str(folder.path), "--episodes", "3", "--returns", str(file))) == 0
    head, *rows = file.read_text().splitlines()
    assert head == "episode,copy,return,length,ending"
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]
    assert all(row.endswith(",terminated") for row in rows)
    out = capsys.readouterr().out
    assert "median " in out
    assert "95% bootstrap interval over episodes of this policy" in out
    assert "(standard deviation over 3 episodes; min " in out
    assert "the run itself, of seed 1, played its episodes with other seeds" in out
    assert "protocol: env=CartPole-v1" in out
    for wrong, says in (("a.txt", "must end in .csv"), ("/nowhere/a.csv", "there is no folder")):
        assert main(("evaluate", str(folder.path), "--returns", wrong)) == 2
        assert says in capsys.readouterr().err


def test_the_protocol_of_a_game_in_sentences():
    game = {
        "env": "ALE/Pong-v5",
        "sticky_actions": 0.25,
        "frame_skip": 4,
        "noop_max": 30,
        "max_episode_frames": 108_000,
        "life_loss_ends": True,
        "reward_clip": 1.0,
    }
    text = " ".join(explain(game, 0.001, 27_000))
    for part in (
        "neither clipped nor discounted (learning clips them)",
        "a lost life ends an episode for learning only",
        "repeats the action before with probability 0.25",
        "up to 30 no-ops",
        "random with probability ε = 0.001",
        "4 emulator frames",
        "after 108,000 frames",
    ):
        assert part in text, part
    plain = {**game, "sticky_actions": 0.0, "life_loss_ends": False, "noop_max": 0}
    text = " ".join(explain(plain, 0.0, 27_000))
    assert "No sticky actions" in text
    assert "a lost life ends nothing" in text
    assert "No episode begins with no-ops." in text


@pytest.mark.parametrize(
    ("limit", "cuts", "truncates"),
    [(None, True, False), (501, True, True), (500, False, True), (499, False, True)],
)
def test_the_cut_off_of_the_evaluation_is_told_where_it_comes_first(limit, cuts, truncates):
    text = " ".join(explain({} if limit is None else {"max_episode_steps": limit}, 0.0, 500))
    assert ("The evaluation cuts an episode off after 500 env steps." in text) is cuts
    assert ("The environment truncates an episode" in text) is truncates


def test_a_film_for_a_page_is_narrow_and_has_fewer_pictures_where_it_is_long(folder):
    pictures, ret = film_episode(folder, max_width=90)
    assert pictures[0].size == (90, 60)
    assert ret == len(pictures), "CartPole pays 1 per step"
    many = [pictures[0], pictures[-1]] * 400
    with Image.open(io.BytesIO(small_gif(many))) as film:
        assert film.format == "GIF"
        assert film.size == (90, 60)
        assert film.n_frames <= PAGE_PICTURES


def test_a_game_that_renders_fractions_is_filmed(tmp_path, monkeypatch):
    """MinAtar's pictures are floats of 10×10."""
    over = {"env": {"id": "MinAtar/Breakout-v1"}, "stop": {"learner_steps": 1, "score": None}}
    run = tmp_path / "run"
    short = {"evaluation": {"max_episode_steps": 3}}
    train(make_config("cartpole", overrides=merge(merge(TINY, over), short)), run)
    gif = tmp_path / "film.gif"
    film(RunFolder.open(run), gif)
    with Image.open(gif) as pictures:
        assert pictures.size == (160, 160)
        assert len(pictures.convert("RGB").getcolors()) > 2


def test_what_is_rendered_becomes_a_picture_of_8_bits_or_is_refused():
    fractions = np.array([[[0.0, 0.5, 1.0]]])
    assert _colours_of(fractions).tolist() == [[[0, 128, 255]]]
    assert _colours_of(np.array([[0, 300]])).tolist() == [[0, 255]]
    assert _colours_of(np.array([[0.0, 200.0]])).tolist() == [[0, 200]]
    with pytest.raises(UserError, match=r"shape \(2, 2, 7\), which is no picture"):
        _colours_of(np.zeros((2, 2, 7)))

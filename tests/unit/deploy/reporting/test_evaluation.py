"""Playing with the weights of a run, apart from it."""

from __future__ import annotations

import pytest

from actors.environments import Environment
from actors.evaluator import Evaluator
from common.config_toml import merge
from common.errors import UserError
from common.handles import InlineHandle
from common.weights import WeightStore
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.reporting.evaluation import evaluate, film
from deploy.runs.folder import RunFolder
from support.program import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(make_config("cartpole", overrides=merge(TINY, {"stop": {"learner_steps": 20}})), run)
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
    from PIL import Image

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

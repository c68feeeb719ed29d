"""`raydqn bench train`: the plain loop learns, and the libraries are measured in turn."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from deploy.bench import training
from deploy.bench.peer_training import Hyperparameters, greedy_score, make_env, plain_loop
from deploy.cli import main as cli
from support.acting import needs_minatar


class Choice(gym.Env):
    """Two steps: the observation shows which of two actions is rewarded."""

    observation_space = gym.spaces.Box(0, 1, (10, 10, 2), bool)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observation(), {}

    def step(self, action):
        reward = float(action == self._right)
        self._steps += 1
        return self._observation(), reward, self._steps == 2, False, {}

    def _observation(self):
        self._right = int(self.np_random.integers(2))
        picture = np.zeros((10, 10, 2), bool)
        picture[3:6, 3:6, self._right] = True
        return picture


def test_the_plain_loop_learns_and_its_memory_wraps_around():
    torch.manual_seed(0)
    values = Hyperparameters(1e-3, 150, 50, 50, 200, 0.1)
    loop = plain_loop(Choice(), values, seed=1)
    before = greedy_score(Choice(), loop.act, seed=1)
    loop.learn(600)
    assert before < 2.0 == greedy_score(Choice(), loop.act, seed=1)


@needs_minatar
@pytest.mark.parametrize(
    ("name", "game"), [("minatar-space-invaders", "space_invaders"), ("minatar-asterix", "asterix")]
)
def test_the_environment_of_a_preset_is_that_of_its_game(name, game):
    spec = make_env(name).unwrapped.spec
    assert spec is not None
    assert spec.kwargs["game"] == game
    assert spec.kwargs["use_minimal_action_set"]


def test_all_seeds_are_trained_alike_and_measured():
    commands = []

    def raydqn(*arguments):
        commands.append(arguments)
        return {"wall_s": 2.0, "score": 7.0}, 0.0, 0

    names, options = ["pong", "minatar-breakout"], {"pong": ("--env.height", "84")}
    found = list(training.bench_train(2, names, 1000, False, raydqn, options))
    (speed,) = [m for m in found if m.subject == "pong, raydqn"]
    assert (speed.value, speed.n) == (500.0, 2)
    assert [m.value for m in found if m.figure == training.SCORE] == [7.0] * 4
    trained = [line for line in commands if line[0] == "train"]
    seeds = [line[line.index("--seed") + 1] for line in trained]
    assert seeds == ["1", "2", "1", "2"]
    assert ["--env.height" in line for line in trained] == [True, True, False, False]


def test_an_environment_without_a_peer_is_refused(capsys):
    assert cli.main(["bench", "train", "--env", "cartpole"]) == 2
    said = capsys.readouterr().err
    assert "--env=cartpole: must be pong or one of the presets minatar-…" in said

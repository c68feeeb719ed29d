"""A run without evaluations, for an environment of which only one can exist."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from common.errors import UserError
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.reporting.evaluation import evaluate
from deploy.runs.folder import RunFolder
from support.acting import register
from support.fakes import tiny
from support.program import checkpoints_in, reports_in

WITHOUT = {"every_learner_steps": None}
OFTEN = {"every_learner_steps": 20, "episodes": 2, "envs": 2}


class OnlyEnv(gym.Env):
    """A simulator with one licence."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    alive = 0

    def __init__(self, render_mode=None):
        if OnlyEnv.alive:
            raise OSError("the licence is in use")
        OnlyEnv.alive += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, False, self.t >= 20, {}

    def close(self):
        OnlyEnv.alive -= 1


ONLY = register("Only", OnlyEnv)


def test_an_environment_of_which_one_can_exist_is_trained(tmp_path):
    config = tiny(
        env={"id": ONLY}, actors={"envs": 1}, evaluation=WITHOUT, stop={"learner_steps": 30}
    )
    summary = train(config, tmp_path / "run")
    assert summary["learner_steps"] == 30
    assert summary["score"] is None or np.isnan(summary["score"])
    assert OnlyEnv.alive == 0
    assert checkpoints_in(tmp_path / "run").newest().state["counters"]["learner_steps"] == 30
    with pytest.raises(Exception, match="the licence is in use"):
        train(tiny(env={"id": ONLY}, actors={"envs": 2}, evaluation=WITHOUT), tmp_path / "two")
    assert OnlyEnv.alive == 0, "the first copy of two is closed when the second cannot be made"


def test_a_score_cannot_be_asked_for_without_evaluations():
    with pytest.raises(UserError, match=r"stop\.score=300: needs evaluations"):
        tiny(evaluation=WITHOUT, stop={"score": 300.0})


def test_a_run_without_evaluations_is_resumed_and_evaluated(tmp_path):
    few = {**WITHOUT, "episodes": 2, "envs": 2}
    train(tiny(evaluation=few, stop={"learner_steps": 40, "score": None}), tmp_path / "run")
    assert resume(tmp_path / "run", {"stop": {"learner_steps": 60}})["learner_steps"] == 60
    assert evaluate(RunFolder.open(tmp_path / "run"), 2)["episodes"] == 2


def test_a_resume_may_switch_evaluations_off_and_on(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 30, "score": None}, evaluation=OFTEN), run)
    before = reports_in(run)[-1]["score"]
    off = resume(run, {"stop": {"learner_steps": 50}, "evaluation": WITHOUT})
    assert off["score"] == before, "of the last evaluation before"
    resume(run, {"stop": {"learner_steps": 80}, "evaluation": OFTEN})
    state = checkpoints_in(run).newest().state
    assert state["counters"]["evaluations"] >= 3
    assert state["next_evaluation_steps"] <= 100

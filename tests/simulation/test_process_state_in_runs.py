"""Whole runs on environments that change the state of the process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.errors import RunFailedError
from deploy.launch.train import train
from support.acting import register
from support.environments import forget_states
from support.fakes import tiny
from support.program import checkpoints_in, reports_in

FEW = {"stop": {"learner_steps": 20}}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    forget_states()


class ChangesState(gym.Env):
    """Calls `init` in its constructor, and `late` in its 150th step."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, init=lambda: None, late=lambda: None):
        init()
        self.late, self.total = late, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        self.total += 1
        if self.total == 150:
            self.late()
        return np.zeros(2, np.float32), 1.0, False, self.t >= 20, {}


def config_of(name, over=None, **kwargs):
    env_id = register(f"State{name}", lambda: ChangesState(**kwargs))
    return tiny(env={"id": env_id}, **(over or FEW))


def saved_steps(run):
    return checkpoints_in(run).newest().state["counters"]["learner_steps"]


def test_all_files_are_in_the_announced_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    train(config_of("Folder", init=lambda: os.chdir(tmp_path / "elsewhere")), Path("run"))
    assert Path.cwd() == tmp_path
    assert saved_steps(tmp_path / "run") == 20
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_signal_ends_the_run_whatever_handlers_the_environment_has_installed(tmp_path):
    def install():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    late = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    endless = {"stop": {"learner_steps": 10**6}}
    summary = train(config_of("Signals", endless, init=install, late=late), tmp_path / "run")
    assert summary["stop_reason"] == "terminated"
    assert saved_steps(tmp_path / "run") == summary["learner_steps"]


def test_an_exit_in_a_step_is_a_failure_that_is_saved(tmp_path):
    endless = {"stop": {"learner_steps": 10**6}}
    with pytest.raises(RunFailedError, match=r"step\(\) raised SystemExit"):
        train(config_of("Exits", endless, late=sys.exit), tmp_path / "run")
    assert saved_steps(tmp_path / "run") > 0


@pytest.mark.parametrize(
    "switch",
    [
        lambda: torch.set_grad_enabled(False),
        lambda: torch.set_default_dtype(torch.float64),
        lambda: np.seterr(all="raise"),
    ],
    ids=["no gradients", "double", "errors of numpy"],
)
def test_switches_that_the_environment_throws_do_not_reach_the_learner(tmp_path, switch, request):
    train(config_of(f"Switch{hash(request.node.name)}", init=switch), tmp_path / "run")
    assert reports_in(tmp_path / "run")[-1]["learner_steps"] == 20
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32

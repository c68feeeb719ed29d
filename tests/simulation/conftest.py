"""Environments that fail or do not end, and the end of answers that never come.

Imports that take long are made in the fixtures: the process that only hands out tests loads this
file, too.
"""

from __future__ import annotations

import importlib
import os
import sys

import pytest

FADING = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Fading(CartPoleEnv):
    'Runs out of fuel; may refuse to be made, or to close, from then on.'
    fuel = 10**9
    copies = 10**9
    at = ()

    def __init__(self, render_mode=None):
        Fading.copies -= 1
        if Fading.copies < 0 or (Fading.fuel <= 0 and "init" in self.at):
            raise ConnectionError("no more of them")
        super().__init__(render_mode)

    def step(self, action):
        Fading.fuel -= 1
        if Fading.fuel <= 0 and "step" in self.at:
            raise ZeroDivisionError("in the simulator")
        return super().step(action)

    def close(self):
        if Fading.fuel <= 0 and "close" in self.at:
            raise OSError("will not go")

gym.register("Fading-v0", Fading, max_episode_steps=50)
"""

ENDLESS = """
import time
import gymnasium as gym, numpy as np

class Endless(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        time.sleep(0.0002)
        return np.zeros(2, np.float32), 0.0, False, False, {}

gym.register("Endless-v0", Endless)
"""


@pytest.fixture
def fading(tmp_path, monkeypatch):
    """The class of an environment that runs out of fuel; its id is `fading_envs:Fading-v0`."""
    (tmp_path / "fading_envs.py").write_text(FADING)
    monkeypatch.syspath_prepend(tmp_path)
    import gymnasium as gym

    yield importlib.import_module("fading_envs").Fading
    del sys.modules["fading_envs"]
    del gym.registry["Fading-v0"]


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """Configuration of an environment whose episodes do not end."""
    (tmp_path / "endless_envs.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    return {"id": "endless_envs:Endless-v0"}


@pytest.fixture
def always_looking(monkeypatch):
    """`train` and `resume` look for requests in every tick."""
    from support.fakes import use_timeouts

    use_timeouts(monkeypatch, control_every_s=0.0)


@pytest.fixture(scope="module", autouse=True)
def _no_file_waits_for_the_disk():
    """Only a power cut would show it; tests of what is synchronised put their own in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _one_thread_of_torch():
    """The networks are tiny: two threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _answers_that_never_come_end_with_the_test():
    from support.fakes import Never

    Never.test_is_over.clear()
    yield
    Never.test_is_over.set()

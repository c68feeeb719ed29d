"""What the copies of an environment take is told, and held against the memory of the machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from actors.environments import environment_spec
from common.config_sections import EnvConfig
from common.errors import UserError
from common.types import EnvironmentSpec, FrameSpec, TrialCost
from deploy.launch.presets import make_config
from deploy.resources import copies
from deploy.resources.copies import check_copies, describe_copies
from support.acting import register

SPEC = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {})


def config_for(**over):
    return make_config("cartpole", None, {"actors": {"count": 2, "envs": 4}, **over})


def spec_of(mib, seconds=0.1):
    return replace(SPEC, trial=TrialCost(mib << 20, seconds))


def test_copies_are_told_with_what_they_take_if_that_is_much():
    config = config_for(evaluation={"envs": 2})
    plain = "environments: 8 in 2 actors, 2 for evaluations"
    assert describe_copies(config, SPEC) == plain, "no trial copy: nothing is known"
    assert describe_copies(config, spec_of(1)) == plain
    says = f"{plain}; each takes about 120 MiB and 2.1 s to make, all 1,200 MiB"
    assert describe_copies(config, spec_of(120, 2.12)) == says
    assert "1.5 s to make" in describe_copies(config, spec_of(0, 1.5))
    none = config_for(evaluation={"every_learner_steps": None}, stop={"score": None})
    assert describe_copies(none, spec_of(100)).endswith("all 800 MiB")


def test_copies_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(copies, "available_bytes", lambda: 2 << 30)
    config = config_for(evaluation={"envs": 2})
    check_copies(config, SPEC, on_ray=False)
    check_copies(config, spec_of(100), on_ray=False)
    with pytest.raises(UserError) as caught:
        check_copies(config, spec_of(200), on_ray=False)
    message = str(caught.value)
    assert message.startswith("env.id=CartPole-v1: its copies (10) need about 2.0 GiB of memory (")
    assert "1.6 GiB (80% of what" in message


class HeavyEnv(gym.Env):
    """Takes 64 MiB, and a process that takes some more."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.held = np.ones(64 << 20, np.uint8)
        self.child = subprocess.Popen(
            [sys.executable, "-Sc", "x = b'1' * (40 << 20); print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.child.stdout.readline()

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def close(self):
        self.child.communicate(b"\n")


def test_the_trial_copy_is_measured_with_its_processes():
    cost = environment_spec(EnvConfig(id=register("Heavy", HeavyEnv))).trial
    assert 95 << 20 < cost.bytes < 200 << 20
    assert 0 < cost.seconds < 20
    light = environment_spec(EnvConfig(id="CartPole-v1")).trial
    assert light.bytes < 20 << 20

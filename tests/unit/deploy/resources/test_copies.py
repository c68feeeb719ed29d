"""The reported memory and time of an environment's copies, and the warning about memory."""

from __future__ import annotations

import logging
import mmap
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np

from actors.environments import environment_spec
from common.config_sections import EnvConfig
from common.types import EnvironmentSpec, FrameSpec, TrialCost
from deploy.launch.presets import make_config
from deploy.launch.runtimes import open_runtime
from deploy.resources import copies
from deploy.resources.copies import describe_copies, warning_of_copies
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
    says = f"{plain}; each takes about 120 MiB and 2.1 s to make; together up to 1.2 GiB"
    assert describe_copies(config, spec_of(120, 2.12)) == says
    assert "1.5 s to make" in describe_copies(config, spec_of(0, 1.5))
    none = config_for(evaluation={"every_learner_steps": None}, stop={"score": None})
    assert describe_copies(none, spec_of(100)).endswith("; together up to 800 MiB")


def test_of_copies_that_may_not_fit_into_memory_a_run_warns(monkeypatch):
    monkeypatch.setattr(copies, "available_bytes", lambda: 2 << 30)
    monkeypatch.setattr(copies.socket, "gethostname", lambda: "laptop")
    config = config_for(evaluation={"envs": 2})
    assert warning_of_copies(config, SPEC, on_ray=False) is None
    assert warning_of_copies(config, spec_of(100), on_ray=False) is None
    text = warning_of_copies(config, spec_of(200), on_ray=False)
    assert text.startswith(
        "env.id=CartPole-v1: 10 environments may need up to 2.0 GiB of memory (the trial copy took "
        "200 MiB) and the replay memory "
    )
    assert text.endswith(
        " MiB, but 1.6 GiB are available (80% of the free memory of laptop); if that is too "
        "little, reduce actors.envs, actors.count, evaluation.envs or replay.capacity"
    )


def test_a_run_whose_copies_may_not_fit_begins_all_the_same(monkeypatch):
    # Copies may share what the first one took, and no key would let such a run pass.
    monkeypatch.setattr(copies, "available_bytes", lambda: 2 << 30)
    notified = []
    events = SimpleNamespace(notify=lambda text, level: notified.append((text, level)))
    with open_runtime(config_for(), spec_of(9_000), True, None, events, "run") as runtime:
        assert not runtime.parallel
    ((text, level),) = notified
    assert level == logging.WARNING
    assert "may need up to" in text


class HeavyEnv(gym.Env):
    """Takes 64 MiB, and a process that takes some more; reads a file that processes share."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.held = np.ones(64 << 20, np.uint8)
        self.file = mmap.mmap(-1, 96 << 20)
        self.file.write(bytes(96 << 20))
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
    assert 95 << 20 < cost.bytes < 180 << 20
    assert 0 < cost.seconds < 20
    light = environment_spec(EnvConfig(id="CartPole-v1")).trial
    assert light.bytes < 20 << 20

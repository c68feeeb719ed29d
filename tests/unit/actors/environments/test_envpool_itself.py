"""EnvPool's own copies beside those of ale-py and Gymnasium, where EnvPool is installed.

It takes 740 MB with its data: continuous integration installs it, `make setup` does not.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from support.acting import needs_atari
from support.environments import play

BACKEND = {"backend": "envpool"}


@pytest.fixture(scope="module", autouse=True)
def _envpool():
    """Not when tests are collected: its import takes a second, in each process."""
    pytest.importorskip("envpool", reason="needs EnvPool: pip install -e '.[envpool]'")


def test_cartpole_moves_as_gymnasiums(make):
    environment = make(id="CartPole-v1", copies=3, **BACKEND)
    frames = environment.reset(3)
    assert np.abs(frames).max() <= 0.05
    theirs = gym.make("CartPole-v1")
    theirs.reset()
    rng, ends = np.random.default_rng(0), 0
    done = np.zeros(3, bool)
    for _ in range(150):
        actions = rng.integers(2, size=3)
        step = environment.step(actions)
        assert np.array_equal(step.first, done)
        for i in np.flatnonzero(~done):
            theirs.reset()
            theirs.unwrapped.state = frames[i].astype(np.float64)
            observation, reward, terminated, _, _ = theirs.step(actions[i])
            assert np.allclose(observation, step.observation[i], atol=1e-6)
            assert (reward, terminated) == (step.reward[i], step.terminated[i])
        assert (step.reward[done] == 0).all()
        frames, done = step.observation, step.terminated | step.truncated
        ends += int(done.sum())
    assert ends > 5


def test_equal_seeds_give_equal_copies_and_others_differ(make):
    def run(seed):
        environment = make(id="CartPole-v1", copies=2, **BACKEND)
        first = environment.reset(seed)
        return first, [step.observation for step in play(environment, 60)]

    (first, steps), (again, steps_again), (other, _) = run(5), run(5), run(6)
    assert np.array_equal(first, again)
    assert np.array_equal(steps, steps_again)
    assert np.array_equal(first[1], other[0]), "copy i has the seed of the first one + i"
    assert not np.array_equal(first[0], first[1])


def test_the_limit_of_steps_truncates(make):
    environment = make(id="MountainCar-v0", copies=1, **BACKEND)
    assert environment.spec.max_episode_steps == 200
    environment.reset(0)
    steps = [environment.step(np.zeros(1, np.int64)) for _ in range(201)]
    assert [i for i, step in enumerate(steps) if step.truncated[0]] == [199]
    assert not any(step.terminated[0] for step in steps)
    assert steps[200].first[0]


@needs_atari
def test_frames_and_rewards_of_a_game_are_those_of_ale_py(make):
    config = {"id": "ALE/Breakout-v5", "sticky_actions": 0.0}
    # EnvPool makes 1 no-op, each of ale-py's copies 0 or 1.
    pool, ale = (
        make(copies=1, noop_max=1, **BACKEND, **config),
        make(copies=8, noop_max=2, **config),
    )
    ours, theirs = pool.reset(0), ale.reset(0)
    equal = np.array([np.array_equal(frame, ours[0]) for frame in theirs])
    rng, lost = np.random.default_rng(1), 0
    for _ in range(250):
        action = rng.integers(4)
        one, many = pool.step(np.array([action])), ale.step(np.full(8, action))
        equal &= (many.observation == one.observation).all(axis=(1, 2, 3))
        for name in ("reward", "terminated", "truncated", "life_lost", "first"):
            equal &= getattr(many, name) == getattr(one, name)
        lost += int(one.life_lost[0])
    assert lost > 0
    assert equal.any()
    assert not equal.all()

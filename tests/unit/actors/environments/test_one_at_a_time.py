"""Environments that allow a single copy, late reports of lives, grids with channels first."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actors.environments import make_environment
from common.config_sections import EnvConfig
from common.errors import UserError
from support.acting import CountingEnv, register
from support.environments import actions_of, refusal


class LoneEnv(CountingEnv):
    """A second one cannot be made while the first one is open."""

    is_open = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if LoneEnv.is_open:
            raise OSError("address in use")
        LoneEnv.is_open = True

    def close(self):
        LoneEnv.is_open = False


class LoneVector(gym.vector.SyncVectorEnv):
    def __init__(self, num_envs, mode, **kwargs):
        super().__init__([lambda: LoneEnv(**kwargs)] * num_envs, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_an_own_vectorised_version_is_made_when_the_first_copy_is_closed(mode):
    env_id = register(
        f"Lone{mode.name}",
        LoneEnv,
        vector_entry_point=lambda num_envs, **kwargs: LoneVector(num_envs, mode, **kwargs),
    )
    environment = make_environment(EnvConfig(id=env_id), 1)
    assert isinstance(environment._vector, LoneVector) == (mode is AutoresetMode.NEXT_STEP)
    environment.reset(0)
    environment.step(actions_of(0))
    environment.close()
    assert not LoneEnv.is_open


@pytest.mark.parametrize("copies", [1, 2])
def test_a_second_copy_that_cannot_be_made_says_how_to_train_with_one(make, copies):
    env_id = register("LoneEnv", LoneEnv)
    if copies == 1:
        make(id=env_id, copies=1)
    with pytest.raises(UserError, match=r"address in use.*; another copy is open.*envs=1"):
        make(id=env_id, copies=copies)
    LoneEnv.is_open = False


class LivesEnv(gym.Env):
    """Tells lives in steps only: 3, then an end, then 2 from the first step on."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.steps, self.episodes = 0, 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        lives = 3 if self.episodes == 1 else 2
        return np.zeros(2, np.float32), 0.0, False, self.steps == 2, {"lives": lives}


def test_lives_of_the_episode_before_are_not_those_of_a_new_one():
    config = EnvConfig(id=register("LateLives", LivesEnv), life_loss_ends=True)
    environment = make_environment(config, 1)
    environment.reset(0)
    steps = [environment.step(actions_of(0)) for _ in range(6)]
    assert [bool(step.first[0]) for step in steps] == [False, False, True, False, False, True]
    assert not any(step.life_lost[0] for step in steps)


class PlanesEnv(gym.Env):
    """`[C, H, W]`: an object's plane."""

    observation_space = gym.spaces.Box(0, 1, (5, 7, 6), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.seen = np.zeros((5, 7, 6), np.uint8)
        self.seen[4, 3, 2] = 1
        return self.seen, {}

    def step(self, action):
        return self.seen, 0.0, False, False, {}


def test_a_grid_with_channels_first_is_declared():
    env_id = register("Planes", PlanesEnv)
    environment = make_environment(EnvConfig(id=env_id, observation="planes"), 2)
    assert (environment.spec.frame.shape, environment.spec.frame.scale) == ((5, 7, 6), 1.0)
    frames = environment.reset(0)
    assert frames.dtype == np.uint8
    assert np.argwhere(frames[1]).tolist() == [[4, 3, 2]]
    assert "env.observation=planes: CartPole-v1 returns float32 of shape (4,)" in refusal(
        id="CartPole-v1", observation="planes"
    )

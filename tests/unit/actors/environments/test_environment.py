"""`Environment`: resets, truncation, lives, seeds and action numbers of every family."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actors.environments import Environment
from actors.environments.copies import Copies
from common.errors import UserError
from common.types import EnvironmentSpec, FrameSpec
from support.acting import (
    COUNTING,
    COUNTING_LIMITED,
    NOISY,
    CountingEnv,
    needs_atari,
    register,
)
from support.environments import ATARI, BREAKOUT, MINATAR, PONG, actions_of, play, refusal

KINDS = ["CartPole-v1", "Acrobot-v1", COUNTING, ATARI, MINATAR]


# ── autoreset ───────────────────────────────────────────────────────────────────────────────────


@needs_atari
def test_an_environment_with_a_vectorised_version_of_its_own_uses_it(make):
    assert type(make(id="CartPole-v1")._vector).__name__ == "CartPoleVectorEnv"
    assert type(make(id="Acrobot-v1")._vector) is Copies
    assert type(make(id=PONG)._vector).__name__ == "AtariVectorEnv"


@pytest.mark.parametrize("env_id", KINDS)
def test_every_kind_resets_in_the_step_after_the_end(make, env_id):
    environment = make(id=env_id)
    assert environment._vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def counting_vector(num_envs, mode, **kwargs):
    return SyncVectorEnv([partial(CountingEnv, **kwargs)] * num_envs, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_vector_environment_that_resets_otherwise_is_refused(mode):
    vector = counting_vector(2, mode)
    spec = EnvironmentSpec(FrameSpec((3,), "float32", 1.0), 1, 3, {})
    with pytest.raises(UserError, match="NEXT_STEP") as caught:
        Environment(vector, spec, np.asarray, 0, 1)
    assert "\n" not in str(caught.value)
    vector.close()


def own_version(mode):
    def vector_entry_point(num_envs, render_mode=None, max_episode_steps=None, **kwargs):
        vector = counting_vector(num_envs, mode, **kwargs)
        vector.is_own_version = True
        return vector

    return vector_entry_point


@pytest.mark.parametrize(
    ("mode", "used"), [(AutoresetMode.SAME_STEP, False), (AutoresetMode.NEXT_STEP, True)]
)
def test_an_own_vectorised_version_that_resets_in_the_same_step_is_not_used(make, mode, used):
    env_id = register(f"Own{mode.name}", CountingEnv, vector_entry_point=own_version(mode))
    environment = make(id=env_id, kwargs={"length": 2})
    assert hasattr(environment._vector, "is_own_version") == used
    # Either way the last observation of the episode arrives, and the first one after it.
    environment.reset(0)
    steps = [environment.step(actions_of(0, 1)) for _ in range(3)]
    assert [step.observation[0].tolist() for step in steps] == [[1, 1, 0], [1, 2, 0], [2, 0, -1]]
    assert [step.terminated.tolist() for step in steps] == [[False] * 2, [True] * 2, [False] * 2]
    assert [step.first.tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2]


def test_the_step_after_the_end_ignores_its_action_and_has_no_reward(make):
    environment = make(id=COUNTING, kwargs={"length": 2, "reward": 5.0})
    assert environment.reset(0).tolist() == [[1, 0, -1]] * 2
    seen = [environment.step(actions_of(1, 2)) for _ in range(4)]
    assert [step.observation[1].tolist() for step in seen] == [
        [1, 1, 2],
        [1, 2, 2],  # the true last one
        [2, 0, -1],  # no action was applied
        [2, 1, 2],
    ]
    assert [step.reward.tolist() for step in seen] == [[5, 5], [5, 5], [0, 0], [5, 5]]
    assert [step.first[0] for step in seen] == [False, False, True, False]


def test_copies_end_and_begin_on_their_own(make):
    env_id = register("OwnLength", OwnLengthEnv)
    environment = make(id=env_id, copies=2)
    environment.reset(4)  # copy 0 gets an even seed, copy 1 an odd one
    steps = [environment.step(actions_of(0, 0)) for _ in range(6)]
    assert [step.terminated.tolist() for step in steps] == [
        [False, False],
        [True, False],
        [False, True],
        [False, False],
        [True, False],
        [False, False],
    ]
    assert [step.first.tolist() for step in steps] == [
        [False, False],
        [False, False],
        [True, False],
        [False, True],
        [False, False],
        [True, False],
    ]


class OwnLengthEnv(CountingEnv):
    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._length = 3 if seed % 2 else 2
        return super().reset(seed=seed, options=options)


def test_cartpole_shows_the_fallen_pole_before_it_shows_the_next_one(make):
    environment = make(id="CartPole-v1", copies=4)
    environment.reset(1)
    steps = play(environment, 100)
    ends = 0
    for before, after in pairwise(steps):
        for copy in np.flatnonzero(before.terminated):
            ends += 1
            x, _, angle, _ = before.observation[copy]
            assert abs(x) > 2.4 or abs(angle) > 12 * np.pi / 180
            assert after.first[copy]
            assert np.abs(after.observation[copy]).max() <= 0.05
            assert after.reward[copy] == 0
            assert not after.terminated[copy]
        assert np.array_equal(after.first, before.terminated | before.truncated)
    assert ends > 4


@pytest.mark.parametrize("env_id", KINDS)
def test_what_a_step_returned_is_not_overwritten_by_the_next(make, env_id):
    # The actor hands frames to the accumulator only after the step that follows.
    environment = make(id=env_id)
    environment.reset(1)
    steps = play(environment, 1)
    copies = [np.array(field) for field in steps[0]]
    play(environment, 30)
    for field, copy in zip(steps[0], copies, strict=True):
        assert np.array_equal(field, copy)


@pytest.mark.parametrize("env_id", ["CartPole-v1", COUNTING, ATARI])
def test_a_reset_right_after_an_end_begins_an_episode_whose_first_action_counts(make, env_id):
    limits = {"max_episode_frames": 100} if env_id == BREAKOUT else {}
    atari = {"noop_max": 0, "sticky_actions": 0.0} if env_id.startswith("ALE/") else {}
    environment = make(id=env_id, copies=1, **atari, **limits)
    environment.reset(1)
    step = environment.step(actions_of(1))
    while not (step.terminated | step.truncated)[0]:
        step = environment.step(actions_of(1))
    opening = environment.reset(None)
    after = environment.step(actions_of(1))
    assert not after.first[0]
    assert not (after.terminated | after.truncated)[0]
    assert not np.array_equal(after.observation, opening)


# ── truncation ──────────────────────────────────────────────────────────────────────────────────


def balance(observation):
    """Keeps a CartPole up for ever."""
    x, speed, angle, turn = observation.T
    return (0.1 * x + 0.3 * speed + 3 * angle + turn > 0).astype(np.int64)


def test_cartpole_balanced_for_500_steps_is_truncated_and_not_terminated(make):
    environment = make(id="CartPole-v1", copies=3)
    observation = environment.reset(0)
    for _ in range(499):
        step = environment.step(balance(observation))
        observation = step.observation
        assert not (step.terminated | step.truncated).any()
    step = environment.step(balance(observation))
    assert step.truncated.tolist() == [True] * 3
    assert step.terminated.tolist() == [False] * 3
    assert step.reward.tolist() == [1] * 3
    # The true last observation: the pole where it just was, to bootstrap from.
    assert np.abs(step.observation - observation).max() < 0.5
    assert not step.first.any()
    assert environment.step(balance(step.observation)).first.all()


def test_acrobot_left_alone_is_truncated_after_500_steps(make):
    environment = make(id="Acrobot-v1", copies=1)
    environment.reset(0)
    for _ in range(499):
        step = environment.step(actions_of(1))  # no torque
        assert not (step.terminated | step.truncated).any()
    step = environment.step(actions_of(1))
    assert step.truncated.all()
    assert not step.terminated.any()


def test_a_time_limit_truncates_where_the_episode_would_have_gone_on(make):
    environment = make(id=COUNTING_LIMITED, kwargs={"length": 5})
    environment.reset(0)
    steps = [environment.step(actions_of(0, 0)) for _ in range(4)]
    assert [step.truncated[0] for step in steps] == [False, False, True, False]
    assert not any(step.terminated[0] for step in steps)
    assert steps[2].observation[0].tolist() == [1, 3, 0]
    assert steps[3].observation[0].tolist() == [2, 0, -1]
    assert steps[3].first[0]


# ── lives ───────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_life_is_told_once_and_ends_nothing(make):
    environment = make(id=COUNTING, kwargs={"length": 4, "life_at": 2}, life_loss_ends=True)
    environment.reset(0)
    steps = [environment.step(actions_of(0, 0)) for _ in range(9)]
    assert [step.life_lost[0] for step in steps] == [False, True, *[False] * 4, True, False, False]
    assert [step.terminated[0] for step in steps] == [i in (3, 8) for i in range(9)]
    assert [step.first[0] for step in steps] == [i == 4 for i in range(9)]


# ── seeds ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", ATARI, MINATAR])
def test_the_seed_decides_everything_that_an_environment_draws(make, env_id):
    def story(seed):
        environment = make(id=env_id, copies=2)
        frames = [environment.reset(seed)]
        return np.array(frames + [step.observation for step in play(environment, 60)])

    one, again, other = story(7), story(7), story(8)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    # The copies have streams of their own.
    assert not np.array_equal(one[:, 0], one[:, 1])


def test_a_reset_without_seed_continues_the_stream_and_does_not_repeat_it(make):
    environment = make(id=NOISY)
    first = environment.reset(3)
    second = environment.reset(None)
    assert not np.array_equal(first, second)
    assert np.array_equal(environment.reset(3), first)
    assert np.array_equal(environment.reset(None), second)


# ── action spaces ───────────────────────────────────────────────────────────────────────────────


def test_actions_are_counted_from_zero_whatever_the_environment_calls_its_first(make):
    environment = make(id=COUNTING, kwargs={"actions": 3, "start": 5})
    assert environment.spec.num_actions == 3
    environment.reset(0)
    step = environment.step(actions_of(0, 2))
    assert step.observation[:, 2].tolist() == [5, 7]


def test_continuous_actions_are_refused():
    message = refusal(id="Pendulum-v1")
    assert "Box" in message
    assert "Discrete" in message

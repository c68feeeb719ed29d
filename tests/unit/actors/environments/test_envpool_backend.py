"""`env.backend = "envpool"`: what is asked of EnvPool, and what is refused; with a fake of it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actors.environments import envpool_backend
from support.environments import refusal

BACKEND = {"backend": "envpool"}
PICTURE = gym.spaces.Box(0, 255, (1, 84, 84), np.uint8)
VECTOR = gym.spaces.Box(-1, 1, (4,), np.float32)


class FakePool:
    """Of EnvPool: episodes of three steps, of which the last one reaches the limit, too."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 # as EnvPool's

    def __init__(self, shape, dtype, copies, options):
        self.options, self.closed, self.resets = options, False, 0
        self._observation, self._copies = np.zeros((copies, *shape), dtype), copies
        self._t = 0

    def reset(self):
        self._t, self.resets = 0, self.resets + 1
        return self._observation, {}

    def step(self, actions):
        assert actions.dtype == np.int32
        self._t += 1
        trunc = np.full(self._copies, self._t == 3)
        info = {"lives": np.full(self._copies, 3), "terminated": trunc.astype(np.int32)}
        return self._observation, np.ones(self._copies, np.float32), trunc & ~trunc, trunc, info

    def close(self):
        self.closed = True


@pytest.fixture
def pools(monkeypatch):
    """The pools that have been made, with the module of the name of EnvPool's."""
    made, spaces = (
        [],
        {"Pong-v5": PICTURE, "CartPole-v1": VECTOR, "Taxi-v3": gym.spaces.Discrete(5)},
    )

    def make_spec(task, num_envs, **options):
        return SimpleNamespace(
            gymnasium_observation_space=spaces[task],
            gymnasium_action_space=gym.spaces.Discrete(6),
            config=SimpleNamespace(max_episode_steps=options.get("max_episode_steps", 2**31 - 1)),
        )

    def make_gymnasium(task, num_envs, **options):
        made.append(FakePool(spaces[task].shape, spaces[task].dtype, num_envs, options))
        return made[-1]

    module = SimpleNamespace(
        list_all_envs=lambda: list(spaces), make_spec=make_spec, make_gymnasium=make_gymnasium
    )
    monkeypatch.setitem(sys.modules, "envpool", module)
    monkeypatch.setattr(envpool_backend.metadata, "version", lambda name: "1.2.5")
    return made


def test_keys_of_an_atari_game_are_told_to_envpool_and_to_the_reader_of_a_score(make, pools):
    environment = make(
        id="ALE/Pong-v5", sticky_actions=0.1, noop_max=7, frame_skip=2, max_episode_frames=100,
        height=84, width=84, **BACKEND,
    )  # fmt: skip
    environment.reset(2**31 - 1)
    assert pools[0].options == {
        "num_threads": 1, "seed": [2**31 - 1, 0], "stack_num": 1, "frame_skip": 2, "noop_max": 7,
        "repeat_action_probability": 0.1, "max_episode_steps": 50, "img_height": 84,
        "img_width": 84, "gray_scale": True, "episodic_life": False, "reward_clip": False,
        "use_fire_reset": False,
    }  # fmt: skip
    protocol = environment.spec.protocol
    assert protocol == {
        "env": "ALE/Pong-v5", "sticky_actions": 0.1, "frame_skip": 2, "stack": 1, "noop_max": 7,
        "noop_min": 1, "max_episode_frames": 100, "life_loss_ends": False, "reward_clip": None,
        "picture": "84×84 grey", "actions": 6, "backend": "envpool 1.2.5", "max_episode_steps": 50,
    }  # fmt: skip
    assert environment.frames_per_step == 2


def test_a_game_that_ends_at_the_limit_is_over_and_not_only_cut_off(make, pools):
    environment = make(id="ALE/Pong-v5", **BACKEND)
    environment.reset(0)
    steps = [environment.step(np.zeros(2, np.int64)) for _ in range(3)]
    assert [step.terminated[0] for step in steps] == [False, False, True]
    assert steps[2].truncated.all()


def test_a_seed_makes_the_copies_anew_and_a_reset_without_one_does_not(make, pools):
    environment = make(id="CartPole-v1", **BACKEND)
    assert environment.spec.protocol["backend"] == "envpool 1.2.5"
    assert environment.spec.max_episode_steps is None
    environment.reset(5)
    environment.reset(None)
    assert len(pools) == 1
    assert (pools[0].options["seed"], pools[0].resets) == ([5, 6], 2)
    environment.reset(9)
    assert (pools[0].closed, pools[1].options["seed"]) == (True, [9, 10])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id": "CartPole-v9"}, "EnvPool has no CartPole-v9; did you mean CartPole-v1?"),
        ({"id": "ALE/Pongg-v5"}, "EnvPool has no ALE/Pongg-v5; did you mean ALE/Pong-v5?"),
        ({"id": "Pong-v5"}, "for a game of Atari write env.id=ALE/Pong-v5, else use env.backend"),
        ({"id": "MinAtar/Breakout-v1"}, "EnvPool has no MinAtar/Breakout-v1"),
        ({"id": "module:CartPole-v1"}, "EnvPool has no module:CartPole-v1"),
        ({"id": "Taxi-v3"}, "Taxi-v3 returns no vectors there"),
        ({"kwargs": {"sutton_barto_reward": True}}, "env.kwargs={ sutton_barto_reward = true }"),
        ({"wrappers": ["a:B"]}, 'env.wrappers=["a:B"]'),
        ({"action_mask": "info"}, "env.action_mask=info"),
        ({"observation": "pixels"}, "env.observation=pixels: with env.backend=envpool"),
        ({"width": 40}, "env.width=40: has no effect"),
        ({"id": "ALE/Pong-v5", "invert": True}, "env.invert=true"),
        ({"id": "ALE/Pong-v5", "noop_max": 0}, "env.noop_max=0: EnvPool begins with 1 no-op"),
        ({"id": "ALE/Pong-v5", "observation": "vector"}, "env.observation=vector"),
    ],
)
def test_what_envpool_cannot_do_is_refused_in_one_line(pools, config, message):
    assert message in refusal(**BACKEND, **config)


def test_pictures_to_look_at_are_refused(make, pools):
    with pytest.raises(envpool_backend.UserError, match="renders no pictures"):
        make(id="CartPole-v1", render=True, **BACKEND)


def test_another_mode_of_resets_is_refused(make, pools, monkeypatch):
    monkeypatch.setattr(FakePool, "metadata", {})
    environment = make(id="CartPole-v1", **BACKEND)
    with pytest.raises(envpool_backend.UserError, match="autoreset mode is None"):
        environment.reset(0)


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert "pip install 'raydqn[envpool]'" in refusal(id="CartPole-v1", **BACKEND)

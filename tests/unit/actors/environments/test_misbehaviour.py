"""Environments that return, declare or change what they should not."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from actors.environments import environment_spec, make_environment
from actors.environments.process_state import apart
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from support.acting import register
from support.environments import actions_of, refusal

UNIT = gym.spaces.Box(-1, 1, (2,), np.float32)


class OddEnv(gym.Env):
    """Does `act` in each step, and returns `see`, `reward`, `info`."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = gym.spaces.Discrete(2)

    def __init__(
        self, space=UNIT, see=None, reward=0.0, info=None, act=None, actions=None, at=3,
        render_mode=None,
    ):  # fmt: skip
        self.observation_space = space
        self.action_space = actions or self.action_space
        self.see, self.reward, self.info, self.act, self.at = see, reward, info, act, at
        self.steps, self.taken = 0, []

    def _now(self, value, usual):
        if self.steps < self.at or value is None:
            return usual
        return value() if callable(value) else value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._now(self.see, np.zeros(self.observation_space.shape or 1, np.float32)), {}

    def step(self, action):
        self.steps += 1
        self.taken.append(action)
        self._now(self.act, None)
        see = self._now(self.see, np.zeros(self.observation_space.shape or 1, np.float32))
        return see, self._now(self.reward, 0.0), False, self.steps >= 20, self._now(self.info, {})


ODD = register("Odd", OddEnv)


def odd(copies=2, **kwargs):
    environment = make_environment(EnvConfig(id=ODD, kwargs=kwargs), copies)
    environment.reset(0)
    return environment


def steps_of(environment, steps):
    for _ in range(steps):
        environment.step(np.zeros(environment.num_envs, np.int64))


def failure_of(environment, steps=10):
    with pytest.raises(EnvironmentFailedError) as caught:
        steps_of(environment, steps)
    return str(caught.value)


# --- observations and rewards ---------------------------------------------------------------------


def array(*numbers, dtype=np.float32):
    return np.array(numbers, dtype)


@pytest.mark.parametrize(
    ("see", "says"),
    [
        (array(0, np.nan), "observation is NaN (copy 0, step 3 of its episode)"),
        (array(np.inf, 0), "observation is infinite, or too large for float32 (copy 0, step 3"),
        (array(0, 1e300, dtype=np.float64), "observation is infinite, or too large for float32"),
        (array(0), "observation has shape (1,), declared is (2,)"),
        ([0.0, [1.0]], "declared is an array of shape (2,)"),
        ("text", "declared are numbers of float32"),
        (lambda: {"a": 1}, "declared are numbers of float32"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's own checker sees some of them, too
def test_an_observation_that_was_not_declared_is_named_with_copy_and_step(see, says):
    assert says in failure_of(odd(see=see))


@pytest.mark.parametrize("reward", [np.nan, -np.inf, 1e39, array(np.nan)[0]])
def test_a_reward_that_is_no_number_is_named(reward):
    assert "reward is " in failure_of(odd(reward=reward))


@pytest.mark.parametrize("reward", [None, "1.0", b"1"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's own checker sees some of them, too
def test_a_reward_of_another_type_is_named(reward):
    says = f"step() returned the reward {reward!r}, which is no number (copy 0, step 3"
    assert says in failure_of(odd(reward=lambda: reward))


@pytest.mark.parametrize(
    ("space", "see", "says"),
    [
        (gym.spaces.Box(0, 255, (2,), np.uint8), array(0.25, 1), "holds 0.25, declared are whole"),
        (gym.spaces.Box(0, 255, (2,), np.uint8), array(0, np.nan), "holds nan, declared are whole"),
        (gym.spaces.Box(0, 9, (2,), np.uint8), array(0, 300, dtype=int), "does not fit into the d"),
        (gym.spaces.Box(0, 9, (2,), np.uint8), array(-1, 3, dtype=int), "does not fit into the d"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whole_numbers_that_were_declared_are_not_rounded_unseen(space, see, says):
    assert says in failure_of(odd(space=space, see=see))


class PartsEnv(OddEnv):
    """Observations of parts, as declared but for `wrong`."""

    def __init__(self, wrong):
        super().__init__()
        parts = {
            "box": UNIT,
            "kind": gym.spaces.Discrete(3),
            "pair": gym.spaces.MultiDiscrete([2, 3]),
        }
        self.observation_space = gym.spaces.Dict(parts)
        self.wrong = wrong

    def _now(self, value, usual):
        return usual

    def reset(self, *, seed=None, options=None):
        return self.step(0)[0], {}

    def step(self, action):
        seen = {"box": array(0, 0), "kind": np.int64(1), "pair": np.array([1, 2])}
        return {**seen, **self.wrong}, 0.0, False, False, {}


PARTS = register("Parts", PartsEnv)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": 3}, "observation['kind'] is 3, declared is Discrete(3)"),
        ({"pair": np.array([2, 0])}, "observation['pair'] is"),
        ({"box": array(1)}, "observation['box'] has shape (1,), declared is (2,)"),
        ({"more": 1}, "space keys: ['box', 'kind', 'pair']"),  # by Gymnasium's own checker
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_part_of_an_observation_is_named(wrong, says):
    with pytest.raises(UserError) as caught:
        environment_spec(EnvConfig(id=PARTS, kwargs={"wrong": wrong}))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (
            gym.spaces.Box(0, 1, (0,), np.float32),
            "observation has shape (0,), which holds no number",
        ),
        (gym.spaces.Box(0, 1, (3, 0), np.float32), "observation has shape (3, 0)"),
        (gym.spaces.Dict({}), "observation space is not allowed"),  # by Gymnasium
        (gym.spaces.Dict({"a": gym.spaces.Tuple(())}), "empty Tuple"),
        (gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (0,))}), "observation['a'] has shape (0,)"),
    ],
)
def test_an_empty_observation_is_refused_at_the_door(space, says):
    assert says in refusal(id=ODD, kwargs={"space": space})


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium sees that they share memory
def test_an_observation_that_is_written_over_is_kept():
    shared = np.zeros(2, np.float32)

    def see():
        shared[:] += 0.125
        return shared

    environment = odd(copies=1, see=see, at=0)
    first = environment.step(actions_of(0)).observation
    before = first.copy()
    environment.step(actions_of(0))
    assert np.array_equal(first, before)


# --- meaning --------------------------------------------------------------------------------------

CODES = gym.spaces.Box(0, 255, (7, 7, 3), np.uint8)


def test_small_8_bit_observations_are_asked_about(make):
    assert "set env.observation to grid, picture or vector" in refusal(
        id=ODD, kwargs={"space": CODES}
    )
    grid = make(id=ODD, kwargs={"space": CODES}, observation="grid", copies=1)
    assert (grid.spec.frame.shape, grid.spec.frame.scale) == ((3, 7, 7), 1.0)
    vector = make(id=ODD, kwargs={"space": CODES}, observation="vector", scale=0.5, copies=1)
    assert (vector.spec.frame.shape, vector.spec.frame.scale) == ((147,), 0.5)
    picture = make(id=ODD, kwargs={"space": CODES}, observation="picture", copies=1)
    assert picture.spec.frame.shape == (1, 84, 84)


@pytest.mark.parametrize("high", [1, 255])
@pytest.mark.parametrize("shape", [(40, 40, 3), (3, 40, 40)])
def test_a_picture_of_floats_goes_from_its_bounds_to_8_bits(make, high, shape):
    space = gym.spaces.Box(0, high, shape, np.float32)
    see = np.full(shape, 0.6 * high, np.float32)
    environment = make(id=ODD, kwargs={"space": space, "see": see, "at": 0}, copies=1)
    assert environment.spec.frame.shape == (1, 84, 84)
    frames = environment.reset(0)
    assert frames.dtype == np.uint8
    assert (np.abs(frames.astype(int) - 153) <= 1).all()
    assert "picture" in environment.spec.protocol


def test_a_picture_outside_its_bounds_is_named():
    space = gym.spaces.Box(0, 1, (40, 40, 3), np.float32)
    bright = np.full((40, 40, 3), 255, np.float32)
    assert "a picture holds 255, declared are 0 to 1" in failure_of(odd(space=space, see=bright))


def test_a_picture_among_other_parts_is_scaled(make):
    parts = {"a": gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), "b": UNIT}
    environment = make(
        id=ODD, kwargs={"space": gym.spaces.Dict(parts), "at": 0,
                        "see": {"a": np.full((4, 4, 3), 255, np.uint8), "b": array(0.5, -0.5)}},
        copies=1,
    )  # fmt: skip
    assert environment.reset(0)[0] == pytest.approx([1.0] * 48 + [0.5, -0.5])


# --- infos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "info",
    [
        {"winner": None},
        {"trade": "sell"},
        {"hash": 2**70},
        {"lives": "three"},
        {"final_obs": 1, "_final_obs": 2, "episode": 3},
        {1: 2},
        None,
        "no dict",
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_infos_only_what_is_used_is_read(info):
    counts = iter(range(10**6))
    environment = odd(info=lambda: info if next(counts) % 2 else {})
    steps_of(environment, 30)


def test_lives_that_are_absent_are_as_before():
    told = iter([{"lives": 3}, {}, {"lives": 3}, {"lives": 2}, {}])
    config = EnvConfig(
        id=ODD, kwargs={"info": lambda: next(told, {}), "at": 1}, life_loss_ends=True
    )
    environment = make_environment(config, 1)
    environment.reset(0)
    lost = [bool(environment.step(actions_of(0)).life_lost[0]) for _ in range(6)]
    assert lost == [False, False, False, True, False, False]


def test_lives_that_are_no_number_are_named():
    config = EnvConfig(id=ODD, kwargs={"info": {"lives": "three"}}, life_loss_ends=True)
    environment = make_environment(config, 1)
    environment.reset(0)
    assert "info[\"lives\"] is 'three', not a whole number" in failure_of(environment)


# --- actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "count", "number", "action"),
    [
        (gym.spaces.Discrete(3, start=-1), 3, 2, 1),
        (gym.spaces.MultiDiscrete([2, 3]), 6, 5, [1, 2]),
        (gym.spaces.MultiDiscrete([2, 3], start=[1, 0]), 6, 4, [2, 1]),
        (gym.spaces.MultiDiscrete([[2, 2], [2, 2]]), 16, 9, [[1, 0], [0, 1]]),
        (gym.spaces.MultiBinary(3), 8, 6, [1, 1, 0]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Getting the length:UserWarning")
def test_actions_are_numbered(space, count, number, action):
    environment = odd(copies=1, actions=space)
    environment.step(actions_of(number))
    taken = environment._vector.envs[0].unwrapped.taken[-1]
    assert np.array_equal(taken, action)
    assert space.contains(taken)
    assert environment.spec.num_actions == count


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (gym.spaces.Box(-1, 1, (2,)), "actions are Box, but DQN needs Discrete"),
        (gym.spaces.Discrete(1), "leaves no choice"),
        (gym.spaces.MultiDiscrete([100] * 5), "has 10,000,000,000 actions; at most 4,096"),
        (gym.spaces.MultiBinary(64), "has 18,446,744,073,709,551,616 actions"),
    ],
)
def test_actions_that_cannot_be_numbered_are_refused(space, says):
    assert says in refusal(id=ODD, kwargs={"actions": space})


# --- the process ----------------------------------------------------------------------------------


def test_the_state_of_the_process_is_the_programs_own_after_a_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, seen = torch.get_num_threads(), []

    def act():
        seen.append((Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()))
        (tmp_path / "other").mkdir(exist_ok=True)
        os.chdir(tmp_path / "other")
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(before + 1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    environment = odd(copies=1, act=act)
    for _ in range(6):
        environment.step(actions_of(0))
        assert Path.cwd() == tmp_path
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
        assert torch.get_num_threads() == before
        now = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert now == handlers
    # The environment finds what it left behind.
    assert seen[0] == (tmp_path, True, torch.float32)
    assert seen[-1] == (tmp_path / "other", False, torch.float64)


def test_the_state_is_put_back_after_an_error_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()

    def act():
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        sys.exit("closed")

    assert "step() raised SystemExit: closed" in failure_of(odd(copies=1, act=act))
    assert Path.cwd() == tmp_path
    with apart():
        assert Path.cwd() == tmp_path


def test_outside_the_main_thread_handlers_stay_alone():
    errors = []

    def work():
        try:
            with apart():
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


def test_generators_that_all_code_shares_are_seeded():
    def drawn():
        return random.random(), np.random.randint(1 << 30), float(torch.rand(()))  # noqa: NPY002

    def draws():
        seen = []
        environment = odd(
            copies=1,
            act=lambda: seen.append(drawn()),
        )
        for _ in range(6):
            environment.step(actions_of(0))
        return seen

    assert draws() == draws()


# --- wrappers and keywords ------------------------------------------------------------------------


class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2 * reward


def test_wrappers_are_put_on_in_their_order(make):
    name = f"{__name__}:Doubled"
    environment = make(id=ODD, kwargs={"reward": 3.0, "at": 1}, wrappers=(name, name), copies=1)
    environment.reset(0)
    assert environment.step(actions_of(0)).reward[0] == 12
    assert environment.spec.protocol["wrappers"] == [name, name]


@pytest.mark.parametrize(
    ("wrapper", "says"),
    [
        ("Doubled", 'env.wrappers=Doubled: must be "module:Class"'),
        ("no_such_module:A", "env.wrappers=no_such_module:A: module no_such_module cannot be impo"),
        (f"{__name__}:Nothing", "has no Nothing"),
        (f"{__name__}:ODD", "is not callable"),
    ],
)
def test_a_wrapper_that_cannot_be_used_is_named(wrapper, says):
    assert says in refusal(id=ODD, wrappers=(wrapper,))


def test_a_keyword_of_the_users_never_meets_ours(make):
    environment = make(
        id="CartPole-v1", kwargs={"render_mode": "rgb_array"}, observation="pixels", copies=1
    )
    assert environment.reset(0).dtype == np.uint8
    config = EnvConfig(id="CartPole-v1", kwargs={"render_mode": "rgb_array"})
    environment = make_environment(config, 1, render=True)  # as of `evaluate --gif`
    environment.reset(0)
    assert environment.render()[0].dtype == np.uint8


# --- kinds that a review found ------------------------------------------------------------------


def test_parts_of_8_bits_alone_are_scaled_once(make):
    space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)})
    see = {"image": np.full((40, 40, 3), 255, np.uint8)}
    environment = make(id=ODD, kwargs={"space": space, "see": see, "at": 0}, copies=1)
    assert (environment.reset(0) * environment.spec.frame.scale == 1).all()


def test_small_codes_of_8_bits_keep_their_size(make):
    space = gym.spaces.Box(0, 3, (16,), np.uint8)
    assert make(id=ODD, kwargs={"space": space}, copies=1).spec.frame.scale == 1.0


def test_an_environment_may_have_many_discrete_actions(make):
    environment = make(id=ODD, kwargs={"actions": gym.spaces.Discrete(4672)}, copies=1)
    assert environment.spec.num_actions == 4672


@pytest.mark.parametrize(
    ("wrong", "fits"),
    [({"kind": True}, True), ({"kind": np.array([1])}, True), ({"kind": 1.5}, False)],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numbers_of_another_type_fit_where_they_mean_the_same(wrong, fits):
    config = EnvConfig(id=PARTS, kwargs={"wrong": wrong})
    if fits:
        environment_spec(config)
    else:
        with pytest.raises(UserError):
            environment_spec(config)


def test_lives_may_be_floats():
    told = iter([{"lives": 3.0}, {"lives": np.array([2.0])}])
    config = EnvConfig(
        id=ODD, kwargs={"info": lambda: next(told, {}), "at": 1}, life_loss_ends=True
    )
    environment = make_environment(config, 1)
    environment.reset(0)
    lost = [bool(environment.step(actions_of(0)).life_lost[0]) for _ in range(3)]
    assert lost == [False, True, False]


class UnequalEnv(OddEnv):
    """Each copy has one number more."""

    made = 0

    def __init__(self):
        UnequalEnv.made += 1
        super().__init__(space=gym.spaces.Box(-1, 1, (UnequalEnv.made,), np.float32))


def test_copies_that_differ_are_refused():
    assert "copies differ: the observation space of copy 0 is Box" in refusal(
        copies=2, id=register("Unequal", UnequalEnv)
    )


@pytest.mark.parametrize("method", ["__init__", "render", "close"])
def test_an_exit_in_any_method_is_an_error_of_the_environment(monkeypatch, method):
    def leave(self, *arguments, **more):
        sys.exit(0)

    config = EnvConfig(id=ODD, observation="pixels" if method == "render" else "state")
    monkeypatch.setattr(OddEnv, "metadata", {"render_modes": ["rgb_array"], "render_fps": 30})
    monkeypatch.setattr(OddEnv, method, leave)
    with pytest.raises((UserError, EnvironmentFailedError), match="SystemExit"):
        make_environment(config, 2).close()


def test_a_constructor_finds_the_programs_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()

    class Relative(OddEnv):
        def __init__(self):
            super().__init__()
            os.chdir("assets")

    environment = make_environment(EnvConfig(id=register("Relative", Relative)), 3)
    environment.reset(0)
    assert Path.cwd() == tmp_path


def test_standard_output_and_torchs_device_are_the_programs_own_after_a_call():
    before = sys.stdout

    def act():
        sys.stdout = io.StringIO()
        torch.set_default_device("meta")

    environment = odd(copies=1, act=act)
    steps_of(environment, 5)
    assert sys.stdout is before
    assert torch.get_default_device() == torch.device("cpu")


def test_keywords_that_hold_null_are_refused_in_one_line():
    with pytest.raises(ValueError, match="holds null"):
        EnvConfig(kwargs={"desc": [1, {"a": None}]})

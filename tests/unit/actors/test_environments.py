"""Environments of both kinds: their own vectorised version, and N copies side by side."""

from __future__ import annotations

import sys
import textwrap
from functools import partial
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actors.environments import Environment, environment_spec, make_environment
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from common.types import EnvironmentSpec, FrameSpec
from support.acting import (
    COUNTING,
    COUNTING_LIMITED,
    NOISY,
    CountingEnv,
    needs_atari,
    needs_minatar,
    register,
)

BREAKOUT = "ALE/Breakout-v5"
PONG = "ALE/Pong-v5"
ATARI = pytest.param(BREAKOUT, marks=needs_atari)
MINATAR = pytest.param("MinAtar/Breakout-v1", marks=needs_minatar)
KINDS = ["CartPole-v1", "Acrobot-v1", COUNTING, ATARI, MINATAR]


@pytest.fixture
def make():
    """make_environment, with everything closed in the end."""
    made = []

    def make(copies=2, render=False, **config):
        environment = make_environment(EnvConfig(**config), copies, render)
        made.append(environment)
        return environment

    yield make
    for environment in made:
        environment.close()


def refusal(copies=1, **config):
    """The message of the UserError that this configuration earns: always one line."""
    with pytest.raises(UserError) as caught:
        make_environment(EnvConfig(**config), copies).close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def actions_of(*numbers):
    return np.array(numbers, np.int64)


def play(environment, steps, seed=0):
    """Random actions; the TimeSteps."""
    rng = np.random.default_rng(seed)
    shape = (steps, environment.num_envs)
    return [environment.step(row) for row in rng.integers(environment.spec.num_actions, size=shape)]


# ── autoreset ───────────────────────────────────────────────────────────────────────────────────


@needs_atari
def test_an_environment_with_a_vectorised_version_of_its_own_uses_it(make):
    assert type(make(id="CartPole-v1")._vector).__name__ == "CartPoleVectorEnv"
    assert type(make(id="Acrobot-v1")._vector) is SyncVectorEnv
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
    environment = make(id=COUNTING, kwargs={"length": 4, "life_at": 2})
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


def test_a_reset_without_seed_goes_on_with_the_stream_and_does_not_repeat_it(make):
    environment = make(id=NOISY)
    first = environment.reset(3)
    second = environment.reset(None)
    assert not np.array_equal(first, second)
    assert np.array_equal(environment.reset(3), first)
    assert np.array_equal(environment.reset(None), second)


# ── Atari ───────────────────────────────────────────────────────────────────────────────────────


@needs_atari
def test_pong_shows_84_by_84_grey_8_bit_frames_and_has_six_actions(make):
    environment = make(id=PONG, stack=4)
    assert environment.spec.frame == FrameSpec((1, 84, 84), "uint8", 1 / 255)
    assert environment.spec.stack == 4, "stacks are ours: ale-py gives single frames"
    assert environment.spec.num_actions == 6
    frames = environment.reset(0)
    assert frames.shape == (2, 1, 84, 84)
    assert frames.dtype == np.uint8
    assert frames.std() > 0
    step = environment.step(actions_of(0, 5))
    assert step.observation.shape == (2, 1, 84, 84)
    assert step.observation.dtype == np.uint8


@needs_atari
def test_colour_and_size_are_the_users(make):
    environment = make(id=PONG, grey=False, width=40, height=50)
    assert environment.spec.frame.shape == (3, 50, 40)
    frame = environment.reset(0)[0]
    assert frame.shape == (3, 50, 40)
    assert not np.array_equal(frame[0], frame[2]), "Pong is brown and green"


@needs_atari
def test_the_product_of_all_frame_skips_is_four(make):
    environment = make(id=PONG, copies=1)
    assert environment.frames_per_step == 4
    environment.reset(0)
    # ale-py counts the emulator's frames.
    numbers = [
        int(environment._vector.step(actions_of(0))[4]["episode_frame_number"][0]) for _ in range(5)
    ]
    assert np.diff(numbers).tolist() == [4, 4, 4, 4]


@needs_atari
@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_sticky_actions_are_what_the_configuration_says(make, sticky):
    environment = make(id=BREAKOUT, copies=2, sticky_actions=sticky, noop_max=0)
    environment.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        step = environment.step(np.full(2, rng.integers(4)))
    # Without them the copies have nothing random left: same actions, same screen.
    same = (step.observation == step.observation[0]).all()
    assert same == (sticky == 0.0)


@needs_atari
def test_the_defaults_are_the_protocol_of_v5_and_are_told_with_the_score(make):
    protocol = make(id=PONG).spec.protocol
    assert protocol["sticky_actions"] == 0.25
    assert protocol["frame_skip"] == 4
    assert protocol["max_episode_frames"] == 108_000
    assert protocol["noop_max"] == 30
    assert protocol["life_loss_ends"] is False
    assert protocol["reward_clip"] is None
    assert protocol["actions"] == 6


@needs_atari
def test_random_noops_open_the_game_only_up_to_noop_max(make):
    def openings(noop_max):
        environment = make(id=BREAKOUT, copies=4, noop_max=noop_max)
        environment.reset(0)
        info = environment._vector.step(np.zeros(4, np.int64))[4]
        return info["episode_frame_number"].tolist()

    assert len(set(openings(0))) == 1
    assert len(set(openings(30))) > 1


@needs_atari
def test_breakout_goes_on_when_a_life_is_lost_and_ends_with_the_last(make):
    environment = make(id=BREAKOUT, copies=1)
    environment.reset(0)
    lost, ended = 0, False
    for number in range(2000):
        step = environment.step(actions_of(number % 2))  # FIRE, wait, FIRE …: nobody catches it
        lost += int(step.life_lost[0])
        assert not step.first[0], "the game was reset"
        assert not step.truncated[0]
        ended = bool(step.terminated[0])
        if ended:
            break
    assert ended
    assert lost == 4, "five lives: four losses on the way, the fifth is the end"
    assert not step.life_lost[0]
    step = environment.step(actions_of(0))
    assert step.first[0]
    assert not step.life_lost[0], "five lives again is no loss"


@needs_atari
def test_rewards_of_atari_are_the_games_own(make):
    # Bricks of the upper rows are worth more than 1: clipping would show.
    environment = make(id="ALE/SpaceInvaders-v5")
    environment.reset(0)
    rewards = np.array([step.reward for step in play(environment, 300)])
    assert rewards.dtype == np.float32
    assert rewards.max() >= 5


@needs_atari
def test_the_frame_cap_truncates_and_does_not_terminate(make):
    environment = make(id=PONG, copies=1, max_episode_frames=200, noop_max=0)
    environment.reset(0)
    steps = [environment.step(actions_of(0)) for _ in range(60)]
    ends = [i for i, step in enumerate(steps) if step.truncated[0]]
    assert ends
    assert (ends[0] + 1) * 4 == pytest.approx(200, abs=8)
    assert not any(step.terminated[0] for step in steps)
    assert steps[ends[0] + 1].first[0]


@needs_atari
@pytest.mark.filterwarnings("ignore:Rom .* not supported:UserWarning")
def test_a_misspelt_game_is_refused_in_one_line():
    assert "ALE/Pnog-v5" in refusal(id="ALE/Pnog-v5")


@needs_atari
def test_a_misspelt_game_suggests_a_near_one():
    assert "did you mean ALE/Pong-v5?" in refusal(id="ALE/Pnog-v5")


@needs_atari
def test_a_game_with_a_digit_in_its_name_is_found(make):
    # Its ROM is tic_tac_toe_3d: splitting the id at capitals makes another name of it.
    environment = make(id="ALE/TicTacToe3D-v5", copies=1)
    assert environment.reset(0).shape == (1, 1, 84, 84)


@needs_atari
@pytest.mark.parametrize("env_id", ["ALE/Pong-v4", "ALE/Pong"])
def test_another_form_of_the_id_is_refused_with_the_right_form(env_id):
    assert "ALE/Pong-v5" in refusal(id=env_id)


@needs_atari
def test_rendered_pixels_of_atari_are_refused_for_its_state_is_the_screen():
    assert "env.observation=pixels" in refusal(id=PONG, observation="pixels")


# ── pixels ──────────────────────────────────────────────────────────────────────────────────────

PIXELS = {"id": "CartPole-v1", "observation": "pixels", "width": 40, "height": 30}


def test_pixels_are_pictures_of_the_size_and_colour_that_were_asked_for(make):
    grey = make(**PIXELS)
    assert grey.spec.frame == FrameSpec((1, 30, 40), "uint8", 1 / 255)
    frames = grey.reset(0)
    assert frames.shape == (2, 1, 30, 40)
    assert frames.dtype == np.uint8
    colour = make(**PIXELS, grey=False)
    assert colour.spec.frame.shape == (3, 30, 40)
    assert colour.reset(0).shape == (2, 3, 30, 40)
    assert type(grey._vector) is SyncVectorEnv
    assert grey._vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_the_picture_shows_the_state_and_moves_with_it(make):
    environment = make(**PIXELS, copies=1)
    first = environment.reset(0)
    for _ in range(5):
        step = environment.step(actions_of(1))
    assert not np.array_equal(step.observation, first)
    again = environment.reset(0)
    assert np.array_equal(again, first)


def test_the_last_picture_of_an_episode_is_not_the_first_of_the_next(make):
    environment = make(**PIXELS, copies=1)
    environment.reset(0)
    step = environment.step(actions_of(1))
    while not step.terminated[0]:
        before = step.observation
        step = environment.step(actions_of(1))
    opening = environment.step(actions_of(1))
    assert opening.first[0]

    def difference(one, other):
        return np.abs(one.astype(int) - other.astype(int)).sum()

    # A falling pole moves a little from one step to the next; a new episode jumps upright.
    assert difference(step.observation, before) < difference(step.observation, opening.observation)


def test_the_screen_of_the_environment_itself_can_be_set(make):
    environment = make(**PIXELS, render_width=160, render_height=140, copies=1)
    environment.reset(0)
    assert environment.render()[0].shape == (140, 160, 3)
    plain = make(**PIXELS, copies=1)
    plain.reset(0)
    assert plain.render()[0].shape == (400, 600, 3)


def test_crop_and_invert_are_applied_to_what_is_rendered(make):
    whole = make(**PIXELS | {"width": 600, "height": 400}, copies=1)
    upper = make(
        **PIXELS | {"width": 600, "height": 200}, crop=(0.0, 0.0, 1.0, 0.5), invert=True, copies=1
    )
    everything, part = whole.reset(0), upper.reset(0)
    assert np.array_equal(part[0, 0], 255 - everything[0, 0, :200])


def test_a_screen_size_for_an_environment_without_one_is_refused():
    message = refusal(id="Acrobot-v1", observation="pixels", render_width=100)
    assert "render_width=100" in message


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes:UserWarning")
def test_pixels_of_an_environment_that_cannot_render_are_refused():
    # Outside of these tests gymnasium's warning is not an error, and no reason to stop.
    message = refusal(id=COUNTING, observation="pixels")
    assert COUNTING in message


@needs_minatar
@pytest.mark.filterwarnings("ignore:.*No render fps was declared:UserWarning")
@pytest.mark.filterwarnings("ignore:.*RGB-array rendering should return:UserWarning")
def test_pixels_of_an_environment_that_renders_fractions_are_right_or_refused(make):
    # MinAtar renders float64 in [0, 1]; taken for 8-bit it would be black, or crash later.
    def first_frames():
        try:
            environment = make(id="MinAtar/Breakout-v1", observation="pixels", copies=1)
        except UserError:
            return None
        return environment.reset(0)

    frames = first_frames()
    assert frames is None or (frames.dtype == np.uint8 and frames.max() > 1)


def test_any_environment_renders_pictures_of_all_copies_when_asked(make):
    for env_id in ("CartPole-v1", "Acrobot-v1"):
        environment = make(id=env_id, render=True)
        environment.reset(0)
        pictures = environment.render()
        assert len(pictures) == 2
        assert all(p.shape[2] == 3 and p.dtype == np.uint8 for p in pictures)


# ── MinAtar ─────────────────────────────────────────────────────────────────────────────────────


@needs_minatar
@pytest.mark.parametrize(("version", "actions"), [("v0", 6), ("v1", 3)])
def test_minatar_runs_on_binary_planes_and_its_version_tells_the_action_set(make, version, actions):
    environment = make(id=f"MinAtar/Breakout-{version}")
    assert environment.spec.num_actions == actions
    assert environment.spec.protocol["env"].endswith(version)
    assert environment.spec.frame == FrameSpec((4, 10, 10), "uint8", 1.0)
    frames = environment.reset(0)
    assert frames.shape == (2, 4, 10, 10)
    assert frames.dtype == np.uint8
    # Channel 0 of Breakout is the paddle: one cell of the lowest row.
    assert frames[:, 0].sum(axis=(1, 2)).tolist() == [1, 1]
    assert frames[:, 0, 9].sum() == 2
    steps = play(environment, 200)
    assert any(step.terminated.any() for step in steps)
    assert not any(step.truncated.any() for step in steps)
    for before, after in pairwise(steps):
        assert np.array_equal(after.first, before.terminated)


@needs_minatar
def test_a_misspelt_minatar_game_suggests_a_near_one(make):
    make(id="MinAtar/Breakout-v1")  # all of them are registered by now
    assert "did you mean MinAtar/Breakout-v1?" in refusal(id="MinAtar/Brakout-v1")


# ── other people's environments ─────────────────────────────────────────────────────────────────

MODULE = """
import gymnasium as gym
import numpy as np


class Mine(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size=0.0, render_mode=None):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([0, self.size], np.float32), {}

    def step(self, action):
        return np.array([1, self.size], np.float32), 1.0, False, False, {}


gym.register("ActingTestMine-v0", Mine)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported; its traces are wiped out afterwards."""
    names = []
    registered = set(gym.registry)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        names.append(name)

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in names:
        sys.modules.pop(name, None)
    for env_id in set(gym.registry) - registered:
        del gym.registry[env_id]


def test_an_environment_of_the_users_own_module_runs(module, make):
    module("acting_test_mine", MODULE)
    environment = make(id="acting_test_mine:ActingTestMine-v0", kwargs={"size": 0.5})
    assert environment.reset(0).tolist() == [[0, 0.5]] * 2
    assert environment.step(actions_of(0, 1)).observation.tolist() == [[1, 0.5]] * 2
    assert environment.spec.protocol["kwargs"] == {"size": 0.5}


def test_a_module_that_is_not_there_is_named():
    message = refusal(id="acting_test_nowhere:X-v0")
    assert "acting_test_nowhere" in message
    assert "cannot be imported" in message


def test_a_module_that_raises_on_import_is_a_users_mistake_in_one_line(module):
    module("acting_test_broken", "raise ValueError('first\\nsecond')")
    message = refusal(id="acting_test_broken:X-v0")
    assert "ValueError: first" in message


def test_an_environment_that_cannot_be_made_says_why():
    message = refusal(id="CartPole-v1", kwargs={"gravitation": 3})
    assert "gravitation" in message


FRAGILE = """
import gymnasium as gym
import numpy as np


class Fragile(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    copies = 0

    def __init__(self, at=None, render_mode=None):
        Fragile.copies += 1
        if at == Fragile.copies:
            raise ConnectionError("port is taken\\nby another")
        self.at, self.render_mode = at, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.at == "reset":
            raise KeyError("no track")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if self.at == "step":
            raise ZeroDivisionError("no fuel")
        if self.at == "answer":
            return np.zeros(2, np.float32), 1.0, False
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self):
        return np.zeros((20, 30, 3), np.uint8)

    def close(self):
        if self.at == "close":
            raise OSError("will not go")


gym.register("ActingTestFragile-v0", Fragile)
"""


@pytest.fixture
def fragile(module):
    """The configuration of an environment that raises where `at` says."""
    module("acting_test_fragile", FRAGILE)

    def config(at, **more):
        env_id = "acting_test_fragile:ActingTestFragile-v0"
        return EnvConfig(id=env_id, kwargs={"at": at}, **more)

    return config


@pytest.mark.parametrize("observation", ["state", "pixels"])
@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("reset", "reset() raised KeyError: 'no track' (acting_test_fragile.py, line "),
        ("step", "step() raised ZeroDivisionError: no fuel (acting_test_fragile.py, line "),
        ("close", "close() raised OSError: will not go (acting_test_fragile.py, line "),
        (1, "cannot be made (ConnectionError: port is taken)"),
    ],
)
def test_an_environment_that_raises_at_once_is_refused_in_one_line(fragile, observation, at, says):
    with pytest.raises(UserError) as caught:
        environment_spec(fragile(at, observation=observation))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("observation", ["state", "pixels"])
def test_a_later_copy_that_cannot_be_made_is_told_like_the_first(fragile, observation):
    with pytest.raises(UserError, match=r"cannot be made \(ConnectionError: port is taken\)$"):
        make_environment(fragile(3, observation=observation), 4)


def test_an_own_vectorised_version_that_cannot_be_made_is_told_too():
    def no_vector(num_envs, **kwargs):
        raise ConnectionError("no cluster")

    env_id = register("NoVector", CountingEnv, vector_entry_point=no_vector)
    assert "cannot be made (ConnectionError: no cluster)" in refusal(id=env_id)


def test_of_two_errors_at_the_start_the_first_is_told(fragile, monkeypatch):
    config = fragile("reset")
    make_environment(config, 1).close()
    cls = sys.modules["acting_test_fragile"].Fragile
    monkeypatch.setattr(cls, "close", lambda self: 1 / 0)
    with pytest.raises(UserError, match=r"reset\(\) raised KeyError"):
        environment_spec(config)


def test_an_environment_that_will_not_close_says_so_in_one_line(fragile):
    with pytest.raises(EnvironmentFailedError, match=r"close\(\) raised OSError: will not go \("):
        make_environment(fragile("close"), 2).close()


def failure(environment):
    """The EnvironmentFailedError of a step."""
    environment.reset(0)
    with pytest.raises(EnvironmentFailedError) as caught:
        environment.step(np.zeros(environment.num_envs, np.int64))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("observation", ["state", "pixels"])
def test_an_error_is_told_with_the_environments_own_lines_and_none_of_ours(fragile, observation):
    error = failure(make_environment(fragile("step", observation=observation), 1))
    assert str(error).endswith("(acting_test_fragile.py, line 26, in step)")
    assert 'raise ZeroDivisionError("no fuel")' in error.trace
    assert error.trace.count("File ") == 1


def test_an_error_of_gymnasium_is_told_with_its_lines(fragile):
    # Three values instead of five: it is gymnasium's line that raises.
    error = failure(make_environment(fragile("answer"), 1))
    assert "gymnasium" in error.trace
    assert "environments.py" not in str(error) + error.trace
    assert "(passive_env_checker.py, line" in str(error)


def test_an_error_that_no_line_of_theirs_raises_has_no_place(make):
    environment = make(id=COUNTING)
    environment._vector.step = partial(int, base=0)  # compiled code leaves no line
    error = failure(environment)
    assert str(error).startswith(f"env.id={COUNTING}: step() raised TypeError: ")
    assert "line" not in str(error)
    assert error.trace == ""


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


# ── observation spaces ──────────────────────────────────────────────────────────────────────────


class ShowsEnv(gym.Env):
    """Shows samples of any space."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = gym.spaces.Discrete(2)

    def __init__(self, space, render_mode=None):
        self.observation_space = space
        self.shown = []

    def _show(self):
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self._show(), {}

    def step(self, action):
        return self._show(), 0.0, False, False, {}


SHOWS = register("Shows", ShowsEnv)


def box(*shape, dtype=np.float32, high=1):
    return gym.spaces.Box(0, high, shape, dtype)


SPACES = {
    "dict": (gym.spaces.Dict({"a": box(2), "b": gym.spaces.Discrete(3)}), 2 + 3),
    "tuple": (gym.spaces.Tuple((gym.spaces.Discrete(4), box(2, 2))), 4 + 4),
    "discrete": (gym.spaces.Discrete(7), 7),
    "matrix": (box(3, 4), 12),
    "float64": (box(5, dtype=np.float64), 5),
    "ram": (box(6, dtype=np.uint8, high=255), 6),
    "bits": (gym.spaces.MultiBinary(4), 4),
}


@pytest.mark.parametrize("name", SPACES)
def test_observations_of_any_flat_kind_become_one_vector(make, name):
    space, size = SPACES[name]
    environment = make(id=SHOWS, kwargs={"space": space}, copies=1)
    scale = 1 / 255 if name == "ram" else 1.0
    assert environment.spec.frame == FrameSpec((size,), "float32", scale)
    environment.reset(1)
    step = environment.step(actions_of(0))
    assert step.observation.dtype == np.float32
    assert step.observation.shape == (1, size)
    shown = environment._vector.envs[0].unwrapped.shown[-1]
    expected = gym.spaces.utils.flatten(space, shown)
    assert step.observation[0] == pytest.approx(np.asarray(expected, np.float32))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_8_bit_observations_are_pictures(make, shape):
    space = box(*shape, dtype=np.uint8, high=255)
    environment = make(id=SHOWS, kwargs={"space": space}, width=15, height=10)
    assert environment.spec.frame == FrameSpec((1, 10, 15), "uint8", 1 / 255)
    assert environment.reset(0).shape == (2, 1, 10, 15)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Graph(box(2), None),
        gym.spaces.Sequence(box(2)),
        gym.spaces.Dict({"a": gym.spaces.Sequence(box(2)), "b": box(1)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_observations_that_no_vector_can_be_made_of_are_refused(space):
    message = refusal(id=SHOWS, kwargs={"space": space})
    assert type(space).__name__ in message


def test_a_vector_too_long_to_be_meant_is_refused():
    space = gym.spaces.Tuple((gym.spaces.Discrete(1 << 21), box(1)))
    assert "2,097,153" in refusal(id=SHOWS, kwargs={"space": space})


# ── ids ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_id_suggests_a_near_one():
    assert refusal(id="CartPol-v1").endswith("did you mean CartPole-v1?")


def test_an_id_like_no_other_is_refused_without_a_suggestion():
    message = refusal(id="Xyzzy")
    assert "Xyzzy" in message
    assert "did you mean" not in message


def test_the_spec_can_be_had_without_the_environment():
    spec = environment_spec(EnvConfig(id="CartPole-v1", stack=2))
    assert spec.frame == FrameSpec((4,), "float32", 1.0)
    assert spec.stack == 2
    assert spec.num_actions == 2
    assert spec.protocol["env"] == "CartPole-v1"


@pytest.mark.parametrize("env_id", ["CartPole-v1", COUNTING, ATARI, MINATAR])
@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_every_seed_of_a_run_suits_every_environment(env_id, seed):
    assert environment_spec(EnvConfig(id=env_id), seed).num_actions > 1

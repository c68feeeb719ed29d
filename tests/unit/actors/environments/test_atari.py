"""Atari games: frames, frame skip, sticky actions, lives."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments.atari import KEYWORDS
from common.types import FrameSpec
from support.acting import (
    needs_atari,
)
from support.environments import BREAKOUT, PONG, actions_of, play, refusal


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
    environment = make(id=PONG, copies=1, grey=False, width=40, height=50)
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
    protocol = make(id=PONG, copies=1).spec.protocol
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
        environment = make(id=BREAKOUT, copies=3, noop_max=noop_max)
        environment.reset(0)
        info = environment._vector.step(np.zeros(3, np.int64))[4]
        return info["episode_frame_number"].tolist()

    assert len(set(openings(0))) == 1
    assert len(set(openings(30))) > 1


@needs_atari
def test_breakout_continues_when_a_life_is_lost_and_ends_with_the_last(make):
    environment = make(id=BREAKOUT, copies=1)
    environment.reset(0)
    lost, ended = 0, False
    for number in range(2000):
        step = environment.step(
            actions_of(number % 2)
        )  # FIRE, wait, FIRE …: the ball is never caught
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
    environment = make(id="ALE/SpaceInvaders-v5", copies=1)
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


@needs_atari
@pytest.mark.parametrize(
    "env_id",
    ["PongNoFrameskip-v4", "Pong-v4", "ale_py:Pong-v4", "PongDeterministic-v4", "Pong-ram-v4"],
)
def test_an_older_id_is_refused_with_the_right_one(env_id):
    assert "use env.id=ALE/Pong-v5, and set env.sticky_actions" in refusal(id=env_id)


@needs_atari
def test_a_game_of_the_users_own_may_be_called_as_one_of_ataris(make, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "acting_test_games.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('Breakout-v2', entry_point=CartPoleEnv)\n"
    )
    assert make(id="acting_test_games:Breakout-v2", copies=1).spec.num_actions == 2


@needs_atari
def test_an_id_with_its_module_takes_the_same_path(make):
    environment = make(id=f"ale_py:{PONG}", copies=1, sticky_actions=0.0)
    plain = make(id=PONG, copies=1, sticky_actions=0.0)
    assert environment.frames_per_step == 4
    assert environment.spec.protocol == {**plain.spec.protocol, "env": f"ale_py:{PONG}"}


@needs_atari
@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"mode": 1}, "env.kwargs.mode=1: ALE/Pong-v5: ale-py's vector environment does not take"),
        ({"difficulty": 1}, "env.kwargs.difficulty=1"),
        ({"frameskip": 2}, "env.kwargs.frameskip=2: ALE/Pong-v5: use env.frame_skip"),
        ({"repeat_action_probability": 0.0}, "use env.sticky_actions"),
        ({"continuous": True}, "DQN needs discrete actions"),
        ({"full_action_spaec": True}, "did you mean full_action_space?"),
    ],
    ids=str,
)
def test_keywords_that_an_atari_game_does_not_take_are_refused(kwargs, says):
    assert says in refusal(id=PONG, kwargs=kwargs)


@needs_atari
def test_keywords_of_atari_work(make):
    for keyword in KEYWORDS:
        make(id=PONG, kwargs={keyword: True}, copies=1)
    full = make(id=PONG, kwargs={"full_action_space": True}, copies=1)
    assert full.spec.num_actions == 18
    assert full.spec.protocol["kwargs"] == {"full_action_space": True}


@needs_atari
def test_atari_has_no_single_copies():
    assert "env.backend=gymnasium: ale-py makes all copies" in refusal(id=PONG, backend="gymnasium")

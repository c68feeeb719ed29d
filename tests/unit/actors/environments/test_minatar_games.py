"""All copies of a game of MinAtar at once: equal to MinAtar's own, side by side."""

from __future__ import annotations

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

from actors.environments import minatar
from actors.environments.minatar_games import MinAtarVector
from actors.environments.minatar_games.breakout import Breakout
from actors.environments.minatar_games.draws import BLOCK, Draws
from actors.environments.minatar_games.seaquest import Seaquest
from actors.environments.minatar_games.vector import GAMES
from support.acting import needs_minatar
from support.environments import refusal

NAMES = {game: f"MinAtar/{game.title().replace('_', '')}" for game in GAMES}
FIELDS = ("observation", "reward", "terminated", "truncated", "first", "life_lost")


def is_vectorised(environment):
    return isinstance(environment._vector, MinAtarVector)


def assert_equal_steps(make, steps, seed, choose=None, copies=3, **config):
    """Step both side by side; returns how many episodes have ended."""
    ours = make(copies=copies, **config)
    theirs = make(copies=copies, backend="gymnasium", **config)
    assert is_vectorised(ours)
    assert not is_vectorised(theirs)
    assert ours.spec == theirs.spec
    rng = np.random.default_rng(seed)
    ends = 0
    for part in range(2):  # the second reset comes amid episodes, and takes no seed
        frames = ours.reset(seed if part == 0 else None)
        assert np.array_equal(frames, theirs.reset(seed if part == 0 else None))
        assert frames.dtype == np.uint8
        for _ in range(steps):
            actions = rng.integers(ours.spec.num_actions, size=copies)
            if choose is not None:
                actions = choose(frames, actions)
            step, other = ours.step(actions), theirs.step(actions)
            for name in FIELDS:
                here, there = getattr(step, name), getattr(other, name)
                assert here.dtype == there.dtype
                assert np.array_equal(here, there), name
            frames = step.observation
            ends += int((step.terminated | step.truncated).sum())
    return ends


@needs_minatar
@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("seed", [3, 2**32 - 9])
def test_every_step_equals_minatars_own(make, game, version, seed):
    ends = assert_equal_steps(make, 90, seed, id=f"{NAMES[game]}-{version}")
    assert ends or game == "freeway"  # whose episodes have 2,500 steps


@needs_minatar
def test_an_episode_of_freeway_ends_as_minatars_does(make):
    ours = make(copies=2, id="MinAtar/Freeway-v1")
    theirs = make(copies=2, id="MinAtar/Freeway-v1", backend="gymnasium")
    assert np.array_equal(ours.reset(1), theirs.reset(1))
    assert (ours._vector._game._left == 2500).all()
    for member in theirs._vector.envs:
        assert member.unwrapped.game.env.terminate_timer == 2500
        member.unwrapped.game.env.terminate_timer = 40
    ours._vector._game._left[:] = 40
    ends = []
    for number in range(80):
        step, other = ours.step(np.ones(2, np.int64)), theirs.step(np.ones(2, np.int64))
        for name in FIELDS:
            assert np.array_equal(getattr(step, name), getattr(other, name)), name
        ends += [number] * int(step.terminated.sum())
    assert ends == [40, 40]


@needs_minatar
def test_a_wall_that_is_broken_is_built_anew_as_minatars(make):
    def follow(frames, actions):
        """Keep the paddle where the ball will be."""
        at = [frames[0, plane].argmax() % 10 for plane in range(2)]
        (row,) = (frames[0, 1].argmax() // 10,)
        (ball, trail) = (at[1], frames[0, 2].argmax() % 10)
        aim = ball if row > 6 else (ball + np.sign(ball - trail))
        return np.array([0 if at[0] == aim else 1 if at[0] > aim else 2])

    plain = {"sticky_action_prob": 0.0}
    seen = []

    def choose(frames, actions):
        seen.append(int(frames[0, 3].sum()))
        return follow(frames, actions)

    assert_equal_steps(make, 700, 2, choose, id="MinAtar/Breakout-v1", copies=1, kwargs=plain)
    assert any(before == 0 and after == 30 for before, after in pairwise(seen))


@needs_minatar
@pytest.mark.parametrize(
    "kwargs",
    [
        {"sticky_action_prob": 0.0, "difficulty_ramping": False},
        {"sticky_action_prob": 0.6},
        {"max_episode_steps": 7},
    ],
)
def test_keywords_have_minatars_effect(make, kwargs):
    for game in ("asterix", "space_invaders"):
        assert_equal_steps(make, 60, 5, id=f"{NAMES[game]}-v1", kwargs=kwargs)


@needs_minatar
@pytest.mark.parametrize("game", ["asterix", "freeway", "seaquest", "space_invaders"])
@pytest.mark.parametrize("ramping", [True, False])
def test_games_of_which_no_end_is_taken_equal_minatars_at_every_difficulty(game, ramping):
    # Good players meet what random ones do not: fast enemies, many of them, new waves, six divers.
    from minatar.environment import Environment

    copies, steps = 2, 1000
    draws = Draws(copies)
    games = GAMES[game](copies, draws, ramping)
    others = [Environment(game, difficulty_ramping=ramping) for _ in range(copies)]
    for i, other in enumerate(others):
        draws.seed(i, i)
        other.seed(i)
        other.reset()
    games.reset(np.arange(copies))
    rng, going = np.random.default_rng(0), np.ones(copies, bool)
    choice = {"freeway": [2, 2, 2, 4], "space_invaders": [1, 3, 5, 5]}.get(game, range(6))
    for number in range(steps):
        actions = rng.choice(choice, copies)
        reward, over = games.step(actions, going)
        games.show()
        for i, other in enumerate(others):
            other.env.terminal = False
            told = other.env.act(actions[i])
            assert (reward[i], over[i]) == told, (number, i)
            assert np.array_equal(games.planes[i], other.state().transpose(2, 0, 1)), (number, i)
    if game != "freeway" and ramping:
        assert min(other.env.difficulty_ramp() for other in others) > 1


def test_draws_equal_those_of_numpys_random_state():
    copies = 3
    draws, rng = Draws(copies), np.random.default_rng(0)
    others = [np.random.RandomState(i) for i in range(copies)]
    for i in range(copies):
        draws.seed(i, i)
    for _ in range(3 * BLOCK // 5):
        assert draws.uniform_of_all().tolist() == [other.rand() for other in others]
        some = np.flatnonzero(rng.random(copies) < 0.7)
        bounds = rng.integers(1, 10, size=len(some))
        assert draws.uniform(some).tolist() == [others[i].rand() for i in some]
        told = [others[i].randint(bound) for i, bound in zip(some, bounds, strict=True)]
        assert draws.below(some, bounds).tolist() == told
        count = int(rng.integers(1, 6))
        told = [others[i].randint(2**count) for i in some]
        assert draws.bits(some, count).tolist() == told
        if len(some):
            one = int(some[0])
            assert draws.below_of(one, 5, 8).tolist() == others[one].randint(0, 5, 8).tolist()
            assert draws.uniform_of(one, 8).tolist() == others[one].rand(8).tolist()


@needs_minatar
def test_what_only_minatars_own_copies_do_is_done_by_them(make, monkeypatch):
    env_id = "MinAtar/Breakout-v1"
    assert is_vectorised(make(id=env_id, observation="grid"))
    assert not is_vectorised(make(id=env_id, render=True))
    assert not is_vectorised(make(id=env_id, observation="vector"))
    assert not is_vectorised(make(id=env_id, wrappers=["gymnasium.wrappers:OrderEnforcing"]))
    assert not is_vectorised(make(id=env_id, kwargs={"display_time": 10}))
    assert not is_vectorised(make(id=env_id, kwargs={"max_episode_steps": -1}))
    assert "stickiness" in refusal(id=env_id, kwargs={"stickiness": 1})
    monkeypatch.setattr(minatar, "VECTORISED", ("0.9",))  # not the version that is installed
    assert not is_vectorised(make(id=env_id))


@needs_minatar
def test_the_games_are_registered_as_by_minatar_itself(monkeypatch):
    # Its import takes seconds, so that raydqn does without it.
    from minatar.gym import register_envs

    registry = gym.registry
    monkeypatch.setattr(gym.envs.registration, "registry", {})
    register_envs()
    theirs = dict(gym.envs.registration.registry)
    monkeypatch.setattr(gym.envs.registration, "registry", {})
    minatar._register_by_name()
    assert gym.envs.registration.registry == theirs
    assert len(theirs) == 10
    assert gym.registry is registry


@needs_minatar
def test_crowds_of_seaquest_equal_minatars_in_the_order_in_which_they_are_hit():
    from minatar.environments.seaquest import Env

    copies, rng = 150, np.random.default_rng(0)
    games, others = Seaquest(copies, Draws(copies), True), [Env() for _ in range(copies)]
    games.reset(np.arange(copies))
    tables = {name: [] for name in ("shots", "bullets", "divers", "enemies")}

    def things(count, *more):
        """Things in two rows, each with its way, and numbers from 0 up to `more`."""
        columns = [rng.integers(10, size=count), rng.integers(2, size=count) + 1]
        columns += [rng.integers(2, size=count) == 1]
        columns += [rng.integers(top + 1, size=count) for top in more]
        return [[c.item() for c in row] for row in zip(*columns, strict=True)]

    for i, other in enumerate(others):
        other.f_bullets, other.e_bullets, other.divers = things(2), things(4), things(5, 1)
        other.e_fish, other.e_subs = things(2 + i % 6, 1), things(2 + i % 5, 1, 1)
        for name, values in (
            ("shots", other.f_bullets),
            ("bullets", other.e_bullets),
            ("divers", other.divers),
            ("enemies", [[*fish, 0, 0] for fish in other.e_fish]),
            ("enemies", [[*sub[:4], 1, sub[4]] for sub in other.e_subs]),
        ):
            tables[name] += [[i, x, y, 1 if right else -1, *more] for x, y, right, *more in values]
        other.sub_x, other.sub_y = int(rng.integers(3, 7)), int(rng.integers(3))
        other.diver_count, other.oxygen = int(rng.integers(7)), int(rng.integers(200))
        other.surface = bool(other.sub_y == 0 and rng.integers(2))
        games._x[i], games._y[i], games._rescued[i] = other.sub_x, other.sub_y, other.diver_count
        games._oxygen[i], games._surfaced[i] = other.oxygen, other.surface
    for name, rows in tables.items():
        setattr(games, f"_{name}", np.array(rows).T.copy())
    for _ in range(5):  # nothing new comes so soon
        actions = rng.integers(6, size=copies)
        reward, over = games.step(actions, np.ones(copies, bool))
        games.show()
        for i, other in enumerate(others):
            other.terminal = False
            assert (reward[i], over[i]) == other.act(actions[i])
            assert np.array_equal(games.planes[i], other.state().transpose(2, 0, 1))


@needs_minatar
def test_a_ball_among_bricks_moves_as_minatars():
    from minatar.environments.breakout import Env

    copies, rng = 200, np.random.default_rng(0)
    games, others = Breakout(copies, Draws(copies), True), [Env() for _ in range(copies)]
    games.reset(np.arange(copies))
    games._bricks[:, 1:4] = rng.random((copies, 3, 10)) < 0.6
    games._y[:], games._x[:] = rng.integers(6, size=copies), rng.integers(10, size=copies)
    games._direction[:] = rng.integers(4, size=copies)
    games._struck[:] = rng.random(copies) < 0.5
    for i, other in enumerate(others):
        other.brick_map[:] = games._bricks[i]
        other.ball_y, other.ball_x = int(games._y[i]), int(games._x[i])
        other.ball_dir, other.strike = int(games._direction[i]), bool(games._struck[i])
    going = np.ones(copies, bool)
    for _ in range(12):
        actions = rng.integers(6, size=copies)
        reward, over = games.step(actions, going)
        games.show()
        for i in np.flatnonzero(going):
            assert (reward[i], over[i]) == others[i].act(actions[i])
            assert np.array_equal(games.planes[i], others[i].state().transpose(2, 0, 1))
        going &= ~over
    assert going.any()

"""Action masks as environments return them: read, combined, held against the actions."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from actors.environments import environment_spec, make_environment
from actors.environments.actions import numbered
from actors.environments.masks import ActionMasks
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError
from support.acting import COUNTING, needs_atari, register
from support.environments import actions_of, refusal
from support.masked import ACTIONS, LEGAL_MOVES, LEGAL_MOVES_LIMITED, legal_in, shown


class ToldEnv(gym.Env):
    """Returns `masks` one after the other, the last one for ever."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)

    def __init__(self, masks=(), actions=None, ends=None, render_mode=None):
        self.action_space = actions or gym.spaces.Discrete(3)
        self.masks, self.ends, self.taken, self.asked = masks, ends, [], 0

    def _told(self):
        mask = self.masks[min(self.asked, len(self.masks) - 1)]
        self.asked += 1
        return mask

    def legal_moves(self):
        return self._told()

    def _info(self):
        mask = self._told()
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), self._info()

    def step(self, action):
        self.steps += 1
        self.taken.append(action)
        ended = self.steps == 2
        return (
            np.zeros(2, np.float32), 0.0, ended and self.ends == "terminated",
            ended and self.ends == "truncated", self._info(),
        )  # fmt: skip


class OverEnv(ToldEnv):
    """Methods that raise."""

    def action_masks(self):
        if self.steps == 2:
            raise RuntimeError("the game is over")
        return ALL

    @property
    def broken(self):
        raise ValueError("no game is loaded")

    def of_player(self, player):
        return ALL


class SharedEnv(ToldEnv):
    """All copies write the mask into one array."""

    mask = np.zeros(3, np.int8)
    copies = 0

    def __init__(self, inside="array", render_mode=None):
        super().__init__()
        self.inside, self.own = inside, SharedEnv.copies % 3
        SharedEnv.copies += 1

    def _told(self):
        self.mask[:] = np.arange(3) == self.own
        return self.mask if self.inside == "array" else (self.mask,)

    def action_masks(self):
        return self._told()


class TellsItsOwn(gym.Wrapper):
    """Only the last action is legal; an info of its own."""

    def action_masks(self):
        return np.arange(ACTIONS) == ACTIONS - 1


TOLD = register("Told", ToldEnv, disable_env_checker=True)
OVER = register("Over", OverEnv, disable_env_checker=True)
SHARED = register("Shared", SharedEnv, disable_env_checker=True)
ALL = np.ones(3, bool)


def told(*masks, copies=1, source="info", **kwargs):
    config = EnvConfig(id=TOLD, kwargs=kwargs, action_mask=source)
    environment = make_environment(config, copies)
    for copy in environment._vector.envs:
        copy.unwrapped.masks = masks
    return environment


def legal_of(*masks, **kwargs):
    environment = told(*masks, **kwargs)
    environment.reset(0)
    return environment.legal.tolist()


# ── where they are read ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "kwargs"),
    [
        ("info", {}),
        ("info:legal moves", {"tells": "legal moves"}),
        ("method", {}),
        ("method:action_masks", {"tells": "elsewhere"}),
    ],
)
def test_an_action_mask_is_read_where_the_key_says(make, source, kwargs):
    environment = make(3, id=LEGAL_MOVES, kwargs=kwargs, action_mask=source)
    assert environment.spec.masks_actions
    assert environment.spec.mask_bytes == 2
    assert environment.spec.protocol["action_mask"] == source
    frames = environment.reset(7)
    seen = [environment.legal]
    assert np.array_equal(environment.legal, legal_in(frames))
    for _ in range(20):
        step = environment.step(environment.legal.argmax(axis=1))
        # An empty mask at the end of an episode: no action follows, so none is ruled out.
        expected = np.where(step.terminated[:, None], True, legal_in(step.observation))
        assert np.array_equal(environment.legal, expected)
        seen.append(environment.legal)
    assert len({mask.tobytes() for mask in seen}) > 10
    assert np.array_equal(seen[0], legal_in(frames)), "a step writes over an earlier mask"


def test_a_wrapper_may_tell_the_mask(make):
    wrapped = f"{TellsItsOwn.__module__}:TellsItsOwn"
    environment = make(2, id=LEGAL_MOVES, action_mask="method", wrappers=[wrapped])
    environment.reset(0)
    assert environment.legal.tolist() == [[False] * (ACTIONS - 1) + [True]] * 2


def test_a_truncated_state_has_its_own_mask(make):
    environment = make(2, id=LEGAL_MOVES_LIMITED, action_mask="info")
    environment.reset(3)
    for _ in range(4):
        step = environment.step(environment.legal.argmax(axis=1))
    assert step.truncated.all()
    assert np.array_equal(environment.legal, legal_in(step.observation))
    step = environment.step(actions_of(0, 0))
    assert step.first.all()
    assert np.array_equal(environment.legal, legal_in(step.observation))


@pytest.mark.parametrize("source", ["info", "method"])
@pytest.mark.parametrize("inside", ["array", "tuple"])
def test_a_mask_that_all_copies_share_is_read_before_the_next_copy_steps(make, source, inside):
    SharedEnv.copies = 0
    environment = make(3, id=SHARED, kwargs={"inside": inside}, action_mask=source)
    environment.reset(0)
    assert np.array_equal(environment.legal, np.eye(3, dtype=bool))
    environment.step(actions_of(0, 1, 2))
    assert np.array_equal(environment.legal, np.eye(3, dtype=bool))


def test_the_masks_of_taxi_are_read(make):
    environment = make(2, id="Taxi-v4", action_mask="info")
    environment.reset(0)
    for _ in range(20):
        step = environment.step(environment.legal.argmin(axis=1))
        # Each illegal action leaves the taxi where it is, an illegal drop costs 10.
        assert not environment.legal.all(axis=1).any()
        assert (step.reward < 0).all()


def test_without_the_key_no_mask_is_read(make):
    environment = make(2, id=LEGAL_MOVES)
    environment.reset(0)
    environment.step(actions_of(0, 1))
    assert environment.legal is None
    assert not environment.spec.masks_actions
    assert environment.spec.mask_bytes == 0
    assert "action_mask" not in environment.spec.protocol


def test_the_trial_copy_takes_a_legal_action():
    mask = np.array([0, 0, 1], np.int8)
    taken = []

    class Strict(ToldEnv):
        def step(self, action):
            taken.append(int(action))
            return super().step(action)

    env_id = register("Strict", Strict, disable_env_checker=True)
    environment_spec(EnvConfig(id=env_id, kwargs={"masks": [mask]}, action_mask="info"))
    assert taken == [2]


def test_an_environment_without_such_a_method_is_refused():
    message = refusal(id=COUNTING, action_mask="method:legal")
    assert message.startswith("env.action_mask=method:legal: ActingTest/Counting-v0 has no method")
    message = refusal(id="CartPole-v1", action_mask="method")  # it has a vectorised version
    assert "CartPole-v1 has no method action_masks(); name another method" in message


@needs_atari
def test_a_game_of_atari_has_no_masks():
    message = refusal(id="ALE/Pong-v5", action_mask="info")
    assert "every action of an Atari game is legal" in message


# ── form ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "mask",
    [
        np.array([True, False, True]),
        np.array([1, 0, 1], np.int8),
        np.array([1.0, 0.0, 1.0]),
        [1, 0, 1],
        (True, False, True),
    ],
)
def test_a_mask_holds_truth_values_or_0_and_1(mask):
    assert legal_of(mask) == [[True, False, True]]


PAIR = gym.spaces.MultiDiscrete([2, 3])
JOINT = np.array([[1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    "mask",
    [
        JOINT,
        JOINT.reshape(-1),
        np.array([1, 0, 1, 0, 1]),  # end to end, as sb3-contrib has them
        (np.array([1, 0]), np.array([1, 0, 1])),
        (np.array([1, 0], np.int8), [True, False, True]),
    ],
)
def test_masks_of_each_part_of_an_action_are_combined(mask):
    assert legal_of(mask, actions=PAIR) == [[True, False, True, False, False, False]]


def sampled(space, rng):
    """A mask as `space.sample` takes it, and whether it allows an action."""
    if isinstance(space, gym.spaces.MultiBinary):
        mask = rng.integers(3, size=space.shape).astype(np.int8)
        return mask, lambda action: ((mask == 2) | (mask == action)).all()

    def of_part(size):
        part = (rng.random(size) < 0.5).astype(np.int8)
        part[rng.integers(size)] = 1
        return part

    if space.nvec.ndim == 1:
        mask = flat = tuple(of_part(size) for size in space.nvec)
    else:
        mask = tuple(tuple(of_part(size) for size in row) for row in space.nvec)
        flat = sum(mask, ())
    return mask, lambda action: all(
        part[number] for part, number in zip(flat, (action - space.start).reshape(-1), strict=True)
    )


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.MultiDiscrete([2, 3, 2]),
        gym.spaces.MultiDiscrete([2, 2]),
        gym.spaces.MultiDiscrete([3, 2], start=[5, -1]),
        gym.spaces.MultiDiscrete([[2, 3], [2, 2]]),
        gym.spaces.MultiDiscrete([[3], [2]], start=[[1], [7]]),
        gym.spaces.MultiBinary(1),
        gym.spaces.MultiBinary(2),
        gym.spaces.MultiBinary([2, 2]),
    ],
    ids=str,
)
def test_the_forms_of_gymnasiums_sample_are_masks(space):
    """Each bit of a combined mask is that of the action with its number."""
    rng = np.random.default_rng(0)
    count, to_actions = numbered(space, "any")
    masks = ActionMasks(EnvConfig(id="any", action_mask="info"), space)
    actions = to_actions(np.arange(count))
    for _ in range(10):
        mask, allows = sampled(space, rng)
        (legal,) = masks.legal([mask], np.zeros(1, bool), np.zeros(1, int))
        assert legal.tolist() == [bool(allows(action)) for action in actions]
        sample = space.sample(mask)
        assert any((sample == action).all() for action in actions[legal])


def test_masks_of_several_types_are_read_together():
    given = [np.array([1, 0, 1], kind) for kind in (bool, np.int8, np.uint64, float)]
    for masks in (given, given[:3], [*given[1:], [1, 0, 1]]):
        expected = [[True, False, True]] * len(masks)
        reader = ActionMasks(EnvConfig(id="any", action_mask="info"), gym.spaces.Discrete(3))
        zeros = np.zeros(len(masks), int)
        assert reader.legal(masks, zeros == 1, zeros).tolist() == expected


def test_an_action_of_one_part_may_have_its_mask_in_a_tuple():
    single = gym.spaces.MultiDiscrete([3])
    assert legal_of((np.array([0, 1, 1]),), actions=single) == [[False, True, True]]
    assert legal_of(np.array([0, 1, 1]), actions=single) == [[False, True, True]]


def test_a_part_without_a_mask_is_free():
    legal = legal_of((None, np.array([0, 1, 0])), actions=PAIR)
    assert legal == [[False, True, False, False, True, False]]


def test_a_mask_that_may_mean_either_is_refused():
    square = gym.spaces.MultiBinary(2)  # two parts of two, and four combinations
    parts = [[1, 0], [1, 1]]
    for mask in (np.ones(4), np.array(parts), parts, np.ones(2, bool)):
        for space in (square, gym.spaces.MultiDiscrete([2, 2])):
            with pytest.raises(
                EnvironmentFailedError, match=r"shape .*; return a tuple with a mas"
            ):
                legal_of(mask, actions=space)
    assert legal_of(([1, 0], [1, 1]), actions=square) == [[True, True, False, False]]


# ── when they are wrong ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, "is absent (copy 1, step 2 of its episode); return it from reset() and from each"),
        (np.ones(4), "is of shape (4,) (copy 1, step 2 of its episode); return a vector of 3"),
        (np.ones((1, 3)), "is of shape (1, 3) (copy 1"),
        (np.array([0.5, 1, 1]), "holds 0.5 (copy 1, step 2 of its episode); return a NumPy array"),
        (np.array([1, np.nan, 1]), "holds nan (copy 1"),
        (np.array([2, 0, 1]), "holds 2 (copy 1"),
        (np.array([-1, 0, 1]), "holds -1 (copy 1"),
        ("110", "is '110', of type <U3 (copy 1"),
        ({"a": 1}, "is \"{'a': 1}\", of type object (copy 1"),
        ([1, [0, 1], 1], "is '[1, [0, 1], 1]', no array (copy 1"),
        (torch.ones(3, requires_grad=True), "is 'tensor("),
        (np.zeros(3), "allows no action in a state that is not terminal (copy 1, step 2 of its"),
    ],
)
@pytest.mark.parametrize("source", ["info", "method:legal_moves"])
def test_a_wrong_mask_is_named_with_copy_and_step(source, mask, said):
    environment = told(ALL, source=source, copies=2)
    environment.reset(0)
    environment.step(actions_of(0, 0))
    environment._vector.envs[1].unwrapped.masks = [mask]
    with pytest.raises(EnvironmentFailedError, match=re.escape(said)) as caught:
        environment.step(actions_of(0, 0))
    name = 'info["action_mask"]' if source == "info" else "legal_moves()"
    assert str(caught.value).startswith(f"env.id={TOLD}: {name} {said}")
    assert "\n" not in str(caught.value)


def test_a_mask_that_is_absent_from_the_first_reset_is_refused_before_the_run():
    with pytest.raises(Exception, match=r"is absent \(copy 0, step 0 of its episode\)"):
        environment_spec(EnvConfig(id=COUNTING, action_mask="info"))


@pytest.mark.parametrize("last", [None, np.zeros(3)])
def test_a_terminal_state_needs_no_mask_and_a_truncated_one_does(last):
    environment = told(ALL, ALL, last, np.array([0, 1, 0]), ends="terminated")
    environment.reset(0)
    for _ in range(2):
        environment.step(actions_of(0))
    assert environment.legal.tolist() == [[True] * 3]
    environment.step(actions_of(0))
    assert environment.legal.tolist() == [[False, True, False]]
    environment = told(ALL, ALL, last, ends="truncated")
    environment.reset(0)
    environment.step(actions_of(0))
    with pytest.raises(EnvironmentFailedError, match=r"copy 0, step 2"):
        environment.step(actions_of(0))


@pytest.mark.parametrize("last", [[], np.zeros(4), "none", 3])
@pytest.mark.parametrize("source", ["info", "method:legal_moves"])
def test_the_mask_of_a_terminal_state_is_not_read(source, last):
    before = [ALL] * (2 if source == "info" else 4)  # the infos take every second one
    environment = told(*before, last, source=source, copies=2, ends="terminated")
    environment.reset(0)
    for _ in range(2):
        environment.step(actions_of(0, 0))
    assert environment.legal.tolist() == [[True] * 3] * 2


def test_a_method_is_called_in_no_terminal_state_but_in_truncated_ones():
    environment = make_environment(
        EnvConfig(id=OVER, kwargs={"masks": [ALL], "ends": "terminated"}, action_mask="method"), 1
    )
    environment.reset(0)
    for _ in range(7):  # the last one is the first of an episode
        environment.step(actions_of(0))
    environment._vector.envs[0].unwrapped.ends = "truncated"
    error = r"action_masks\(\) raised RuntimeError: the game is over"
    with pytest.raises(EnvironmentFailedError, match=error):
        environment.step(actions_of(0))


@pytest.mark.parametrize(
    ("name", "said"),
    [("broken", "ValueError: no game is loaded"), ("of_player", "TypeError: OverEnv.of_player()")],
)
def test_an_error_of_the_method_names_the_method(name, said):
    config = EnvConfig(id=OVER, kwargs={"masks": [ALL]}, action_mask=f"method:{name}")
    with pytest.raises(EnvironmentFailedError) as caught:
        make_environment(config, 1).reset(0)
    assert str(caught.value).startswith(f"env.id={OVER}: {name}() raised {said}")


def test_what_an_observation_shows_is_the_mask():
    """Of the environment of these tests itself: others rest on it."""
    assert np.array_equal(legal_in(shown(np.array([1, 0, 1]))), [True, False, True])

"""The evaluator: greedy episodes, evenly shared."""

from __future__ import annotations

import numpy as np
import pytest

from actors.actor import Actor
from actors.evaluator import Evaluator
from common.handles import InlineHandle
from common.networks import make_network
from common.weights import WeightStore, pack_weights, unpack_weights
from support.acting import (
    ACTION_PAYS,
    COUNTING,
    NOISY,
    PARITY,
    RANDOM,
    CountingEnv,
    make_config,
    make_server,
    network_that_prefers,
    publish,
    register,
)


@pytest.fixture
def make():
    made = []

    def make(**sections):
        config = make_config(**sections)
        variables = WeightStore()
        evaluator = Evaluator(config, InlineHandle(variables))
        made.append(evaluator)
        return evaluator, variables, config

    yield make
    for evaluator in made:
        evaluator.close()


def evaluation(episodes, envs, **more):
    return {"episodes": episodes, "envs": envs, **more}


def test_by_default_it_plays_greedily_however_the_actors_explore(make):
    evaluator, variables, config = make(
        env={"id": ACTION_PAYS}, exploration=RANDOM, evaluation=evaluation(6, 3)
    )
    publish(variables, 3, network_that_prefers(evaluator.spec, config, 2), learner_steps=40)
    report = evaluator.evaluate()
    assert report.epsilon == 0
    # Episodes of 4 steps that pay the action's number: anything but 8 has explored.
    assert report.returns == [8.0] * 6
    assert report.score == 8.0
    assert report.lengths == [4] * 6
    assert (report.version, report.learner_steps) == (3, 40)


def test_epsilon_of_evaluation_is_obeyed_and_reported(make):
    evaluator, variables, config = make(
        env={"id": ACTION_PAYS}, evaluation=evaluation(20, 5, epsilon=1.0)
    )
    publish(variables, 0, network_that_prefers(evaluator.spec, config, 2))
    report = evaluator.evaluate()
    assert report.epsilon == 1.0
    assert len(set(report.returns)) > 1


@pytest.mark.parametrize(("episodes", "envs"), [(1, 1), (1, 5), (4, 2), (5, 2), (7, 3), (3, 8)])
def test_exactly_as_many_episodes_are_played_as_asked_for(make, episodes, envs):
    evaluator, _, _ = make(env={"id": COUNTING}, evaluation=evaluation(episodes, envs))
    report = evaluator.play(episodes)
    assert len(report.returns) == len(report.lengths) == episodes
    assert set(report.lengths) == {4}


def test_short_episodes_are_not_favoured_because_they_end_first(make):
    # Every other copy plays episodes of 2 steps, the others of 30: the first 8 to end are short.
    evaluator, _, _ = make(env={"id": PARITY}, evaluation=evaluation(8, 4))
    report = evaluator.play(8)
    assert sorted(report.lengths) == [2] * 4 + [30] * 4
    assert report.score == pytest.approx(16.0)


def test_what_does_not_divide_evenly_differs_by_one_episode_at_the_most(make):
    evaluator, _, _ = make(env={"id": PARITY}, evaluation=evaluation(5, 2))
    lengths = evaluator.play(5).lengths
    assert sorted((lengths.count(2), lengths.count(30))) == [2, 3]


def test_the_score_is_the_mean_of_unclipped_returns(make):
    evaluator, _, _ = make(
        env={"id": COUNTING, "kwargs": {"reward": 5.0}, "reward_clip": 1.0},
        evaluation=evaluation(4, 2),
    )
    report = evaluator.play(4)
    assert report.returns == [20.0] * 4
    assert report.score == 20.0


def test_a_lost_life_ends_no_episode(make):
    evaluator, _, _ = make(
        env={"id": COUNTING, "kwargs": {"life_at": 2}, "life_loss_ends": True},
        evaluation=evaluation(4, 2),
    )
    assert evaluator.play(4).lengths == [4] * 4


class RandomPayEnv(CountingEnv):
    """Each reward is drawn from the environment's own stream."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(self.np_random.random()), terminated, truncated, info


RANDOM_PAY = register("RandomPay", RandomPayEnv)


def test_the_next_call_plays_other_episodes_and_the_same_seed_the_same_ones(make):
    def scores(seed):
        evaluator, _, _ = make(seed=seed, env={"id": RANDOM_PAY}, evaluation=evaluation(4, 2))
        return [evaluator.play(4).returns for _ in range(2)]

    first, second = scores(1)
    assert not set(first) & set(second)
    assert scores(1) == [first, second]
    others = scores(2)
    assert not {*others[0], *others[1]} & {*first, *second}


def test_a_new_call_starts_new_episodes_with_empty_stacks(make):
    # The call before left copies in the middle of an episode: nothing of it may show.
    evaluator, _, _ = make(env={"id": PARITY, "stack": 3}, evaluation=evaluation(3, 2))
    seen = []
    network = evaluator._agent._network.layers
    network.register_forward_pre_hook(lambda module, args: seen.append(args[0].numpy().copy()))
    evaluator.play(3)
    seen.clear()
    report = evaluator.play(3)
    assert not seen[0][:, :2].any()
    assert (seen[0][:, 2, 1] == 0).all()
    for stacks in seen:
        for stack in stacks:
            inside = stack[:, 0] != 0
            assert len(set(stack[inside, 0].tolist())) == 1, "a stack over two episodes"
    assert set(report.lengths) == {2, 30}


def test_an_environment_that_never_ends_is_cut_off(make):
    evaluator, _, _ = make(
        env={"id": COUNTING, "kwargs": {"length": 10**9}},
        evaluation=evaluation(4, 2, max_episode_steps=25),
    )
    report = evaluator.play(4)
    # The episode counts as it is; a copy that is stuck plays no other.
    assert report.lengths == [25, 25]
    assert report.returns == [25.0, 25.0]


def test_an_episode_that_ends_just_at_the_limit_is_not_stuck(make):
    evaluator, _, _ = make(
        env={"id": COUNTING, "kwargs": {"length": 25}},
        evaluation=evaluation(4, 2, max_episode_steps=25),
    )
    assert evaluator.play(4).lengths == [25] * 4


def test_it_evaluates_the_newest_weights_and_tells_which(make):
    evaluator, variables, config = make(env={"id": ACTION_PAYS}, evaluation=evaluation(2, 2))
    publish(variables, 0, network_that_prefers(evaluator.spec, config, 1), learner_steps=10)
    assert evaluator.evaluate().score == 4.0
    publish(variables, 1, network_that_prefers(evaluator.spec, config, 2), learner_steps=20)
    report = evaluator.evaluate()
    assert (report.score, report.version, report.learner_steps) == (8.0, 1, 20)
    state, meta = unpack_weights(report.weights)
    best = network_that_prefers(evaluator.spec, config, 2).state_dict()
    assert all((state[name] == best[name]).all() for name in best)
    assert meta["learner_steps"] == 20
    again = evaluator.evaluate()
    assert again.version == 1
    assert variables.fetches == 2, "the same weights are not fetched again"


def test_weights_can_be_given_instead_of_fetched(make):
    evaluator, _, config = make(env={"id": ACTION_PAYS}, evaluation=evaluation(2, 2))
    network = network_that_prefers(evaluator.spec, config, 2)
    evaluator.load_weights(pack_weights(network.state_dict(), {"learner_steps": 9}))
    report = evaluator.play(2)
    assert report.score == 8.0
    assert report.learner_steps == 9


def test_reported_weights_do_not_hang_on_a_shared_buffer(make):
    evaluator, variables, config = make(evaluation=evaluation(1, 1))
    network = make_network(evaluator.spec, config.network)
    publish(variables, 0, network)
    shared = variables.fetch(-1)[1].result()
    report = evaluator.evaluate()
    assert not np.shares_memory(report.weights, shared)
    assert np.array_equal(report.weights, shared)


def first_sight(part, act):
    """What the network of an actor or evaluator was shown first."""
    seen = []
    part._agent._network.layers.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].numpy().copy())
    )
    act()
    return seen[0]


def test_its_episodes_are_not_those_that_the_actors_see(make):
    evaluator, variables, config = make(env={"id": NOISY}, evaluation=evaluation(2, 2))
    actor = Actor(
        config, 0, 0, [InlineHandle(make_server(evaluator.spec))], InlineHandle(variables)
    )
    shown = first_sight(evaluator, lambda: evaluator.play(2))
    assert not set(shown.ravel()) & set(first_sight(actor, lambda: actor.collect(1, 0)).ravel())


def test_no_episode_is_no_evaluation(make):
    evaluator, _, _ = make(env={"id": NOISY}, evaluation=evaluation(1, 1))
    with pytest.raises(ValueError, match="episodes=0"):
        evaluator.play(0)


def test_an_evaluation_in_slices_is_the_same_evaluation(make):
    whole, sliced = (make(env={"id": NOISY}, evaluation=evaluation(7, 3))[0] for _ in range(2))
    report, calls = None, 0
    while report is None:
        report, calls = sliced.evaluate(0.0), calls + 1
    assert calls > 5
    assert report.returns == whole.evaluate().returns
    assert sliced.evaluate(0.0) is None, "the next call begins another"


def test_a_new_evaluation_gives_up_the_one_under_way(make):
    evaluator, _, _ = make(env={"id": COUNTING}, evaluation=evaluation(2, 2))
    evaluator.begin(2)
    assert evaluator.play_on(0.0) is None
    assert len(evaluator.play(1).returns) == 1
    with pytest.raises(RuntimeError, match="no evaluation"):
        evaluator.frames  # noqa: B018


def test_each_episode_tells_its_copy_and_how_it_ended(make):
    evaluator, _, _ = make(env={"id": COUNTING}, evaluation=evaluation(5, 2))
    report = evaluator.play(5)
    assert sorted(report.copies) == [0, 0, 0, 1, 1]
    assert set(report.endings) == {"terminated"}
    evaluator, _, _ = make(env={"id": COUNTING}, evaluation=evaluation(2, 2, max_episode_steps=3))
    report = evaluator.play(2)
    assert report.endings == ["cut off"] * 2
    assert report.lengths == [3, 3]

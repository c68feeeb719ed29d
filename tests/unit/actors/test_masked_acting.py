"""Acting where some actions are illegal: exploration, argmax, first priorities, evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.actor import Actor
from actors.agent import Agent
from actors.environments import environment_spec
from actors.evaluator import Evaluator
from common.handles import InlineHandle
from common.networks import make_network
from common.weights import WeightStore
from support.acting import (
    GREEDY,
    RANDOM,
    make_config,
    make_server,
    network_that_prefers,
    publish,
    vector_spec,
)
from support.masked import ACTIONS, LEGAL_MOVES, LEGAL_MOVES_LIMITED, LegalMovesEnv, legal_in
from support.masked import unpacked as unpack

SPEC = vector_spec(size=3, actions=4)
LEGAL = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]], bool)


def choose(count, epsilon, preferred):
    """Choices of a network that prefers an action, a third of them with each row of `LEGAL`."""
    network = network_that_prefers(SPEC, make_config(), preferred)
    agent = Agent(network, torch.device("cpu"), np.random.default_rng(0))
    stacks = np.ones((count, 1, 3), np.float32)
    legal = np.repeat(LEGAL, count // 3, axis=0)
    return agent.select_actions(stacks, np.full(count, epsilon), legal), legal


def test_exploration_is_uniform_among_the_legal_actions():
    count = 12_000
    choice, legal = choose(count, epsilon=1.0, preferred=1)
    assert legal[np.arange(count), choice.actions].all()
    for part in range(3):
        counts = np.bincount(choice.actions[part * 4000 : (part + 1) * 4000], minlength=4)
        expected = np.where(LEGAL[part], 4000 / LEGAL[part].sum(), 0)
        # Binomial: σ is below 32; 5 σ.
        assert np.abs(counts - expected).max() < 160


def test_the_greedy_action_and_the_greatest_q_value_are_those_of_legal_actions():
    choice, _ = choose(9, epsilon=0.0, preferred=1)  # q is 1 for action 1, 0 for others
    assert choice.actions.tolist() == [0] * 3 + [1] * 6
    assert choice.best[:, 0].tolist() == [0.0] * 3 + [1.0] * 6
    assert choice.taken.tolist() == choice.best.tolist()


class Constant(torch.nn.Module):
    """The same Q values for every state."""

    def __init__(self, q):
        super().__init__()
        self.q = torch.tensor(q)

    def outputs(self, stacks):
        return self.q.expand(len(stacks), -1)

    def values(self, outputs):
        return outputs


def test_no_value_makes_an_illegal_action_the_greedy_one():
    legal = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 1]], bool)
    stacks, epsilons = np.ones((3, 1, 3), np.float32), np.zeros(3)
    for q in ([1.0, -np.inf, -np.inf], [np.inf, np.nan, -np.inf], [np.nan, -np.inf, np.nan]):
        agent = Agent(Constant(q), torch.device("cpu"), np.random.default_rng(0))
        actions = agent.select_actions(stacks, epsilons, legal).actions
        assert legal[np.arange(3), actions].all()


def test_an_agent_draws_as_many_random_numbers_for_any_mask():
    states = []
    for legal in (np.ones((6, 4), bool), np.eye(6, 4, dtype=bool) | (np.arange(6) > 3)[:, None]):
        rng = np.random.default_rng(0)
        agent = Agent(Constant([0.0] * 4), torch.device("cpu"), rng)
        agent.select_actions(np.ones((6, 1, 3), np.float32), np.ones(6), legal)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]


@pytest.fixture
def taken():
    """What was done to all copies: no test sees what another left."""
    LegalMovesEnv.taken.clear()
    return LegalMovesEnv.taken


def scene(env_id, **sections):
    config = make_config(env={"id": env_id, "action_mask": "info"}, **sections)
    spec = environment_spec(config.env)
    return config, spec, make_server(spec), WeightStore()


@pytest.mark.parametrize("exploration", [RANDOM, GREEDY, {"kind": "constant", "start": 0.5}])
@pytest.mark.parametrize("env_id", [LEGAL_MOVES, LEGAL_MOVES_LIMITED])
def test_an_actor_takes_legal_actions_and_sends_the_mask_of_the_state_to_bootstrap_from(
    taken, env_id, exploration
):
    config, _, server, weights = scene(env_id, exploration=exploration, learner={"n_step": 3})
    taken.clear()
    actor = Actor(config, 0, 0, [InlineHandle(server)], InlineHandle(weights))
    for _ in range(10):
        actor.collect(4, 0)
    actor.close()
    assert taken[True] > 50
    assert not taken[False]
    following = legal_in(server.observations("next_observation")[:, 0])
    masks = unpack(server.all_of("next_mask"))
    bootstraps = server.all_of("discount") > 0
    assert bootstraps.sum() > 20
    assert np.array_equal(masks[bootstraps], following[bootstraps])
    assert masks[~bootstraps].all(), "nothing follows: no action is ruled out"
    sample = server._table.sample(50)
    shown = legal_in(sample.frames[sample["next_observation"]][:, 0])
    goes_on = sample["discount"] > 0
    assert np.array_equal(unpack(sample["next_mask"])[goes_on], shown[goes_on])


def test_the_first_priorities_rest_on_the_greatest_q_value_of_legal_actions(taken):
    config, spec, server, weights = scene(
        LEGAL_MOVES, exploration=RANDOM, learner={"gamma": 0.5}, network={"hidden": []}
    )
    network = make_network(spec, config.network)
    (layer,) = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    layer.weight.data.zero_()
    layer.bias.data[:] = torch.arange(ACTIONS).float()  # q(s, a) = a
    publish(weights, 0, network)
    actor = Actor(config, 0, 0, [InlineHandle(server)], InlineHandle(weights))
    actor.collect(16, 0)
    actor.close()
    masks = unpack(server.all_of("next_mask"))
    greatest = ACTIONS - 1 - masks[:, ::-1].argmax(axis=1)
    expected = np.abs(
        server.all_of("reward")
        + server.all_of("discount") * greatest
        - server.all_of("action")
    )  # fmt: skip
    whole = slice(0, -2)  # the last two are cut off by `close`, with estimates
    assert server.all_of("priority")[whole] == pytest.approx(expected[whole], abs=1e-4)
    assert not masks[whole].all(axis=1).all(), "the example must not be trivial"


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_an_evaluation_takes_legal_actions(taken, epsilon):
    config, _, _, weights = scene(
        LEGAL_MOVES, evaluation={"episodes": 6, "envs": 3, "epsilon": epsilon}
    )
    taken.clear()
    evaluator = Evaluator(config, InlineHandle(weights))
    report = evaluator.play(6)
    evaluator.close()
    assert report.returns == [6.0] * 6
    assert not taken[False]

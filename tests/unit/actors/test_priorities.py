"""First priorities are those that the learner would give, if it had the actor's network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.agent import Agent
from actors.priorities import make_measure, numbers_of
from common.config_learner import LearnerConfig
from common.config_network import NetworkConfig
from common.networks import make_network
from common.types import EnvironmentSpec, FrameSpec, Transition
from learner.objectives import QuantileObjective, make_objective
from learner.precision import Forward

SPEC = EnvironmentSpec(FrameSpec((3,), "float32", 1.0), 1, 4, {})
B = 64
HEADS = ["value", "categorical", "quantile", "implicit-quantile"]


def network_of(head, **network):
    config = NetworkConfig(hidden=(16, 8), head=head, value_min=-3, value_max=3, **network)
    return config, make_network(SPEC, config, seed=5)


@pytest.mark.parametrize(
    ("head", "rescaled"),
    [*((head, False) for head in HEADS), *((h, True) for h in HEADS if h != "categorical")],
)
def test_a_first_priority_has_the_learners_measure(monkeypatch, head, rescaled):
    # The actor's fractions are evenly spaced; here the learner's are, too.
    monkeypatch.setattr(QuantileObjective, "_draw", lambda *_: None)
    config, network = network_of(head, atoms=11, quantiles=7)
    learner = LearnerConfig(value_rescaling=rescaled, huber_delta=0.5)
    rng = np.random.default_rng(0)
    stacks, next_stacks = rng.normal(size=(2, B, 1, 3)).astype(np.float32)
    agent = Agent(network, torch.device("cpu"), np.random.default_rng(1), explores=True)
    choice = agent.select_actions(stacks, np.full(B, 0.5))
    following = agent.select_actions(next_stacks, np.zeros(B))
    assert choice.taken.shape == following.best.shape == (B, numbers_of(config))
    reward = rng.normal(size=B)
    discount = rng.choice([0.0, 0.9], B)
    measure = make_measure(network, head, learner)
    first = measure(reward, discount, choice.taken, following.best)
    assert first.dtype == np.float32
    assert first.shape == (B,)
    batch = Transition(
        observation=torch.from_numpy(stacks),
        action=torch.from_numpy(choice.actions),
        reward=torch.from_numpy(reward).float(),
        discount=torch.from_numpy(discount).float(),
        next_observation=torch.from_numpy(next_stacks),
    )
    objective = make_objective(learner, head, Forward("fp32", torch.device("cpu")))
    later = objective(network, network, batch, torch.Generator()).priority.numpy()
    assert first == pytest.approx(later, rel=1e-4, abs=1e-5)
    assert len(set(first.tolist())) == B


@pytest.mark.parametrize("head", HEADS)
def test_an_agent_tells_the_numbers_of_the_chosen_and_of_the_best_legal_action(head):
    _, network = network_of(head)
    stacks = np.random.default_rng(0).normal(size=(B, 1, 3)).astype(np.float32)
    legal = np.random.default_rng(2).random((B, 4)) < 0.6
    legal[:, 1] |= ~legal.any(axis=1)
    agent = Agent(network, torch.device("cpu"), np.random.default_rng(1), explores=True)
    choice = agent.select_actions(stacks, np.full(B, 0.5), legal)
    with torch.no_grad():
        outputs = network.outputs(torch.from_numpy(stacks))
        q = network.values(outputs).numpy()
    outputs = outputs.numpy().reshape(B, 4, -1)
    best = np.where(legal, q, -np.inf).argmax(axis=1)
    assert np.array_equal(choice.taken, outputs[np.arange(B), choice.actions])
    assert np.array_equal(choice.best, outputs[np.arange(B), best])
    assert legal[np.arange(B), choice.actions].all()

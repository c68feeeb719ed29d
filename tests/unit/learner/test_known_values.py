"""Every head with every target it allows learns values that are known."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch

from common.config import Config
from common.networks import make_network, noisy_layers
from common.value_rescaling import unscale
from learner.optimizer import Optimizer
from learner.update import Update
from support.known_values import BANDIT, CHOICE, SPEC, STATES, VALUES, batch, one_hot

HEADS = {
    "value": {},
    "categorical": {"value_min": -2.0, "value_max": 3.0},
    "quantile": {"quantiles": 8},
    "implicit-quantile": {"cosines": 16, "hidden": (32, 32)},
}
TARGETS = {
    "max": {"double": False},
    "double": {"double": True},
    "munchausen": {"double": False, "munchausen": True},
    "rescaled": {"double": True, "value_rescaling": True},
}
RANDOM = ("implicit-quantile",)
"""Heads that learn other fractions in each step."""
STEPS = 250


def trained(head, target="double", huber_delta=1.0, **network):
    """The policy network after some hundred steps on all transitions, and its target network."""
    config = Config.model_validate(
        {
            "network": {"hidden": (32,), "head": head, **HEADS[head], **network},
            "learner": {"learning_rate": 2e-2, "huber_delta": huber_delta, **TARGETS[target]},
        }
    )
    torch.set_num_threads(1)
    policy = make_network(SPEC, config.network, 1)
    frozen = copy.deepcopy(policy).requires_grad_(False)
    optimizer = Optimizer(policy.parameters(), config.learner)
    update = Update(config, policy, frozen, optimizer, torch.device("cpu"))
    data = batch()
    weight = torch.ones(len(data.action))
    for number in range(STEPS):
        if number % 10 == 0:
            frozen.load_state_dict(policy.state_dict())
        assert update.step(number, data, weight) is not None
    for layer in noisy_layers(policy):
        layer.silence()
    return policy


ALLOWED = [
    (head, target)
    for head, target in product(HEADS, TARGETS)
    if head != "categorical" or target in ("max", "double")
]


@pytest.mark.parametrize(
    ("head", "target", "dueling"),
    [*((*pair, False) for pair in ALLOWED), *((head, "double", True) for head in HEADS)],
)
def test_the_values_are_learnt(head, target, dueling):
    policy = trained(head, target, dueling=dueling)
    with torch.no_grad():
        q = policy(one_hot(list(range(STATES))))
    expected = {**VALUES, (CHOICE, 0): 0.0}
    if target == "munchausen":  # the worse of two actions has the clipped log-policy in its reward
        expected |= {(CHOICE, 0): -0.9, (BANDIT, 0): -0.9}
    if target == "rescaled":
        q = unscale(q)
    found = {place: q[place].item() for place in expected}
    assert found == pytest.approx(expected, abs=0.25 if head in RANDOM else 0.08)


@pytest.mark.parametrize("head", HEADS)
def test_noisy_layers_learn_them_too(head):
    policy = trained(head, noisy=True)
    with torch.no_grad():
        q = policy(one_hot(list(range(STATES))))
    assert {place: q[place].item() for place in VALUES} == pytest.approx(VALUES, abs=0.25)


def test_a_bandits_distribution_is_learnt_and_not_its_mean_alone():
    state = one_hot([BANDIT])
    policy = trained("quantile", huber_delta=0.01)
    quantiles = policy.outputs(state)[0, 0].sort().values
    assert quantiles.tolist() == pytest.approx([-1.0] * 4 + [1.0] * 4, abs=0.25)
    policy = trained("categorical")
    support, probabilities = policy.head.support, policy.outputs(state)[0, 0].softmax(0)
    for arm in (-1.0, 1.0):
        near = probabilities[(support - arm).abs() < 0.11].sum()
        assert near.item() == pytest.approx(0.5, abs=0.05)

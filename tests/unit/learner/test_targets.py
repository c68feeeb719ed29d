"""Targets against hand-computed numbers, naive loops and properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.losses import project, weighted_mean
from learner.targets import (
    bellman_target,
    greedy_actions,
    log_policy,
    munchausen_bonus,
    soft_value,
    taken,
)

finite = st.floats(-100, 100, width=32)


def test_the_target_is_reward_plus_discounted_value_of_the_best_next_action():
    target = bellman_target(
        reward=torch.tensor([1.0, 2.0]),
        discount=torch.tensor([0.5, 0.25]),
        next_q=torch.tensor([[3.0, 4.0], [8.0, -1.0]]),
    )
    assert target.tolist() == [3.0, 4.0]


def test_double_q_takes_the_policy_nets_choice_and_the_target_nets_value():
    next_q = torch.tensor([[10.0, 1.0, 5.0], [0.0, 7.0, 3.0]])
    next_q_policy = torch.tensor([[0.0, 2.0, 1.0], [0.3, 0.1, 0.2]])
    target = bellman_target(torch.zeros(2), torch.ones(2), next_q, next_q_policy)
    # The policy net prefers action 1 and 0: 1 and 0 by the target net. Its own maximum would be
    # 10 and 7, the policy net's own values 2 and 0.3.
    assert target.tolist() == [1.0, 0.0]


def test_a_discount_of_zero_cuts_the_bootstrap_whatever_follows():
    target = bellman_target(
        reward=torch.tensor([1.5, 1.5]),
        discount=torch.tensor([0.0, 1.0]),
        next_q=torch.tensor([[1e6, 2e6], [4.0, 5.0]]),
    )
    assert target.tolist() == [1.5, 6.5]


@pytest.mark.parametrize("double", [False, True])
def test_no_gradient_flows_through_the_target(double):
    next_q = torch.randn(4, 3, requires_grad=True)
    next_q_policy = torch.randn(4, 3, requires_grad=True) if double else None
    target = bellman_target(torch.ones(4), torch.ones(4), next_q, next_q_policy)
    assert not target.requires_grad
    q = torch.randn(4, requires_grad=True)
    weighted_mean((target - q) ** 2, torch.ones(4)).backward()
    assert q.grad is not None
    assert next_q.grad is None


def test_taken_picks_the_value_of_each_action_and_gives_the_gradient_to_it_alone():
    q = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    picked = taken(q, torch.tensor([2, 0]))
    assert picked.tolist() == [3.0, 4.0]
    picked.sum().backward()
    assert q.grad.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_taken_picks_the_numbers_of_each_action_of_a_distribution():
    values = torch.arange(12.0).reshape(2, 2, 3)
    assert taken(values, torch.tensor([1, 0])).tolist() == [[3, 4, 5], [6, 7, 8]]


def test_a_legal_action_is_greater_than_an_illegal_one_whatever_its_value():
    q = torch.tensor([[-math.inf, 5.0], [1.0, 2.0]])
    legal = torch.tensor([[True, False], [True, True]])
    assert greedy_actions(q, legal).tolist() == [0, 1]


def naive_log_policy(row, temperature, legal):
    top = max(q for q, ok in zip(row, legal, strict=True) if ok)
    terms = [
        math.exp((q - top) / temperature) if ok else 0.0 for q, ok in zip(row, legal, strict=True)
    ]
    return [temperature * math.log(term / sum(terms)) if term else -math.inf for term in terms]


def test_the_log_policy_is_that_of_the_softmax_over_legal_actions():
    rng = np.random.default_rng(1)
    q, legal = rng.normal(size=(20, 4)), rng.random((20, 4)) < 0.7
    legal[:, 2] = True
    found = log_policy(torch.from_numpy(q), 0.3, torch.from_numpy(legal))
    expected = [naive_log_policy(*row) for row in zip(q, [0.3] * 20, legal, strict=True)]
    assert found.tolist() == [pytest.approx(row) for row in expected]


def test_a_small_temperature_neither_overflows_nor_vanishes():
    found = log_policy(torch.tensor([[1e4, 0.0, -1e4]]), 0.03)
    assert found.tolist() == [[0.0, -1e4, -2e4]]
    assert soft_value(torch.tensor([[1e4, 0.0, -1e4]]), found, 0.03).tolist() == [1e4]


def test_a_state_after_the_end_without_a_legal_action_gives_finite_numbers():
    found = log_policy(torch.tensor([[1.0, 2.0]]), 0.03, torch.zeros(1, 2, dtype=torch.bool))
    assert torch.isfinite(soft_value(torch.tensor([[1.0, 2.0]]), found, 0.03)).all()


@given(row=st.lists(finite, min_size=1, max_size=5), temperature=st.floats(0.01, 10))
def test_the_soft_value_is_that_of_log_sum_exp(row, temperature):
    q = torch.tensor([row], dtype=torch.float64)
    soft = soft_value(q, log_policy(q, temperature), temperature)
    expected = temperature * torch.logsumexp(q / temperature, dim=1)
    assert soft.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)


def test_the_soft_value_of_an_illegal_action_counts_for_nothing():
    q = torch.tensor([[1.0, 9.0]])
    policy = log_policy(q, 0.5, torch.tensor([[True, False]]))
    assert soft_value(q, policy, 0.5).tolist() == [1.0]
    distribution = torch.tensor([[[0.0, 2.0], [8.0, 10.0]]])
    assert soft_value(distribution, policy, 0.5).tolist() == [[0.0, 2.0]]


def test_munchausens_bonus_is_clipped_and_scaled():
    policy = torch.tensor([[-0.5, 0.0], [-7.0, 0.0]])
    bonus = munchausen_bonus(policy, torch.tensor([0, 0]), alpha=0.9, floor=-1.0)
    assert bonus.tolist() == pytest.approx([-0.45, -0.9])


def naive_projection(probabilities, values, support):
    """Algorithm 1 of Bellemare et al. 2017."""
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    out = np.zeros(len(support))
    for probability, value in zip(probabilities, values, strict=True):
        place = (min(max(value, support[0]), support[-1]) - support[0]) / spacing
        below = min(int(place), len(support) - 1)
        above = min(below + 1, len(support) - 1)
        out[below] += probability * (1 - (place - below))
        out[above] += probability * (place - below)
    return out


@given(
    values=st.lists(st.floats(-20, 20), min_size=5, max_size=5),
    parts=st.lists(st.floats(0.01, 1), min_size=5, max_size=5),
)
def test_a_projection_is_that_of_the_paper_and_keeps_mass_and_mean(values, parts):
    support = np.linspace(-10, 10, 5)
    probabilities = np.array(parts) / sum(parts)
    found = project(*map(torch.from_numpy, (probabilities[None], np.array([values]), support)))
    row = found[0].numpy()
    assert row == pytest.approx(naive_projection(probabilities, values, support))
    assert row.sum() == pytest.approx(1)
    assert row @ support == pytest.approx(probabilities @ np.clip(values, -10, 10), abs=1e-6)


def test_atoms_that_fall_on_the_support_stay_whole():
    support = torch.linspace(-10, 10, 51)
    probabilities = torch.full((1, 51), 1 / 51)
    assert torch.allclose(project(probabilities, support[None], support), probabilities)
    ends = project(torch.tensor([[0.25, 0.75]]), torch.tensor([[-99.0, 99.0]]), support)
    expected = [0.25, *[0.0] * 49, 0.75]
    assert ends[0].tolist() == pytest.approx(expected, abs=1e-5)

"""Bellman targets and losses against hand-computed numbers and torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (as processes calls it)
from hypothesis import given
from hypothesis import strategies as st

from learner.losses import bellman_target, huber, taken, weighted_loss

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
    weighted_loss(target - q, torch.ones(4), 1.0).backward()
    assert q.grad is not None
    assert next_q.grad is None


def test_taken_picks_the_value_of_each_action_and_gives_the_gradient_to_it_alone():
    q = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    picked = taken(q, torch.tensor([2, 0]))
    assert picked.tolist() == [3.0, 4.0]
    picked.sum().backward()
    assert q.grad.tolist() == [[0, 0, 1], [1, 0, 0]]


@given(errors=st.lists(finite, min_size=1, max_size=20), delta=st.floats(0.125, 10, width=32))
def test_huber_is_torchs_huber_loss_element_by_element(errors, delta):
    error = torch.tensor(errors, dtype=torch.float64)
    expected = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
    assert huber(error, delta).tolist() == pytest.approx(expected.tolist())


@given(errors=st.lists(finite, min_size=1, max_size=20), delta=st.floats(0.125, 10, width=32))
def test_the_gradient_of_huber_is_torchs_too(errors, delta):
    def gradient(loss):
        error = torch.tensor(errors, dtype=torch.float64, requires_grad=True)
        loss(error).sum().backward()
        return error.grad.tolist()

    assert gradient(lambda e: huber(e, delta)) == pytest.approx(
        gradient(lambda e: F.huber_loss(e, torch.zeros_like(e), reduction="none", delta=delta))
    )
    # In words: the error itself, never more than delta.
    assert gradient(lambda e: huber(e, delta)) == pytest.approx(np.clip(errors, -delta, delta))


def test_huber_has_known_values():
    assert huber(torch.tensor([0.0, 0.5, -1.0, 3.0, -3.0]), 1.0).tolist() == [
        0,
        0.125,
        0.5,
        2.5,
        2.5,
    ]


def test_importance_weights_multiply_each_element_before_the_mean():
    error = torch.tensor([0.5, 3.0])
    weight = torch.tensor([1.0, 0.25])
    # (1 · 0.125 + 0.25 · 2.5) / 2; not the mean loss 1.3125 times the mean weight 0.625, and not
    # the loss of weighted errors (0.125 + 0.28125) / 2.
    assert weighted_loss(error, weight, 1.0).item() == pytest.approx(0.375)


@given(
    pairs=st.lists(st.tuples(finite, st.floats(0, 1, width=32)), min_size=1, max_size=20),
    delta=st.floats(0.125, 10, width=32),
)
def test_the_loss_is_the_mean_of_weighted_elements(pairs, delta):
    errors, weights = zip(*pairs, strict=True)
    error = torch.tensor(errors, dtype=torch.float64)
    weight = torch.tensor(weights, dtype=torch.float64)
    elements = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
    expected = sum(w * e for w, e in zip(weights, elements.tolist(), strict=True)) / len(pairs)
    assert weighted_loss(error, weight, delta).item() == pytest.approx(expected)

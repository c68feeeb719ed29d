"""Losses against hand-computed numbers, naive loops and torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (as processes calls it)
from hypothesis import given
from hypothesis import strategies as st

from common.losses import cross_entropy, entropy, huber, quantile_huber, weighted_mean

finite = st.floats(-100, 100, width=32)


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
    assert weighted_mean(huber(error, 1.0), weight).item() == pytest.approx(0.375)


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
    assert weighted_mean(huber(error, delta), weight).item() == pytest.approx(expected)


def naive_quantile_huber(predicted, taus, target, delta):
    """The definition, one pair at a time."""
    total = 0.0
    for theta, tau in zip(predicted, taus, strict=True):
        terms = []
        for wanted in target:
            error = wanted - theta
            size = abs(error)
            loss = 0.5 * error**2 if size <= delta else delta * (size - 0.5 * delta)
            terms.append(abs(tau - (error < 0)) * loss / delta)
        total += sum(terms) / len(terms)
    return total


@pytest.mark.parametrize("delta", [0.5, 1.0])
def test_the_quantile_loss_is_its_definition(delta):
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(6, 5)) * 2, rng.normal(size=(6, 3)) * 2
    taus = rng.random((6, 5))
    rows = zip(predicted, taus, target, strict=True)
    expected = [naive_quantile_huber(*row, delta) for row in rows]
    given_ = (torch.from_numpy(part) for part in (predicted, taus, target))
    assert quantile_huber(*given_, delta).tolist() == pytest.approx(expected)


def test_the_quantile_loss_is_least_at_the_quantiles():
    samples = torch.linspace(0, 1, 101, dtype=torch.float64)[None]
    guesses = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    for tau in (0.1, 0.5, 0.9):
        taus = torch.full((101, 1), tau)
        loss = quantile_huber(guesses, taus, samples.expand(101, -1), 1e-3)
        assert guesses[loss.argmin()].item() == pytest.approx(tau, abs=0.011)


def test_cross_entropy_less_entropy_is_the_divergence_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 7, generator=generator)
    target = torch.rand(4, 7, generator=generator)
    target[0, 3] = 0.0
    target /= target.sum(dim=1, keepdim=True)
    expected = F.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
    divergence = cross_entropy(logits, target) - entropy(target)
    assert divergence.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    same = cross_entropy(target.log(), target)
    assert (same - entropy(target))[1:].tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_quantile_loss_of_a_large_batch_is_that_of_its_parts(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(7, n, generator=generator) for n in (5, 3))
    for taus in (torch.rand(5, generator=generator), torch.rand(7, 5, generator=generator)):
        whole = quantile_huber(predicted, taus, target, 1.0)
        monkeypatch.setattr("common.losses.LARGEST", 2 * 15)
        assert torch.equal(quantile_huber(predicted, taus, target, 1.0), whole)
        monkeypatch.undo()

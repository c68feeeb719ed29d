"""Losses of each item, and distances between distributions: pure functions on tensors.

The learner's objectives use them, and the first priorities that actors give.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1 << 18
"""Pairs of quantiles that a part of a batch may have on a CPU."""


def huber(error: Tensor, delta: float) -> Tensor:
    """Half the square up to `delta`, then linear with slope `delta` (Huber 1964), element-wise."""
    size = error.abs()
    quadratic = size.clamp(max=delta)
    return quadratic * (size - 0.5 * quadratic)


def quantile_huber(predicted: Tensor, taus: Tensor, target: Tensor, delta: float) -> Tensor:
    """The quantile Huber loss: Σ_i mean_j |τ_i − 1{δ_ij < 0}|·huber(δ_ij) / κ.

    δ_ij = target_j − θ_i (Dabney et al. 2018a, equation 10; 2018b, equation 3).

    Args:
        predicted: `[B, N]`, θ_i, quantiles at the fractions `taus`.
        taus: `[B, N]` or `[N]`.
        target: `[B, M]`, samples of the target's distribution.
        delta: κ, where the loss turns linear.

    Returns:
        `[B]`.
    """
    rows = max(1, LARGEST // (predicted.shape[1] * target.shape[1]))
    if rows < len(predicted):  # a part that fits the processor's cache at a time
        every = taus if taus.dim() == 2 else taus.expand(len(predicted), -1)
        parts = [slice(i, i + rows) for i in range(0, len(predicted), rows)]
        return torch.cat([quantile_huber(predicted[p], every[p], target[p], delta) for p in parts])
    error = target[:, None, :] - predicted[:, :, None]  # [B, N, M]
    below = (error.detach() < 0).to(error.dtype)
    share = (taus[..., None] - below).abs()
    return (share * huber(error, delta) / delta).mean(dim=2).sum(dim=1)


def middles(count: int, device: torch.device | None = None) -> Tensor:
    """The fractions (2i + 1) / 2·count of evenly spaced quantiles: `[count]`."""
    return (torch.arange(count, device=device) + 0.5) / count


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ target·log softmax(logits): `[B, Z]`, `[B, Z]` → `[B]` (Bellemare et al. 2017, alg. 1)."""
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p·log p, where 0·log 0 is 0: `[B, Z]` → `[B]`."""
    return -torch.xlogy(probabilities, probabilities).sum(dim=1)


def project(probabilities: Tensor, values: Tensor, support: Tensor) -> Tensor:
    """A distribution over any values, moved to the atoms of `support`.

    Each probability is shared by the two atoms beside its value; the nearer one gets more. Values
    beyond the support count as its ends (Bellemare et al. 2017, equation 7).

    Args:
        probabilities: `[B, Z]`, over `values`; each row sums to 1.
        values: `[B, Z]`.
        support: `[Z]`, evenly spaced, ascending.

    Returns:
        `[B, Z]`; each row sums to 1.
    """
    low, high = support[0], support[-1]
    spacing = (high - low) / (len(support) - 1)
    clamped = values.clamp(min=low, max=high)
    # [B, Z from, Z to]: the share of each atom in each value.
    distance = (clamped[:, :, None] - support).abs() / spacing
    share = (1.0 - distance).clamp(min=0.0)
    return (probabilities[:, :, None] * share).sum(dim=1)


def weighted_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch of importance weight × loss: weights act on each item first.

    Args:
        loss: `[B]`. weight: `[B]`.

    Returns:
        Scalar.
    """
    return torch.mean(weight * loss)

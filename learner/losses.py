"""The Bellman loss: pure functions on tensors, no state."""

from __future__ import annotations

import torch
from torch import Tensor


def bellman_target(
    reward: Tensor,
    discount: Tensor,
    next_q: Tensor,
    next_q_policy: Tensor | None = None,
    legal: Tensor | None = None,
) -> Tensor:
    """The target of q(s, a): `reward + discount · q_target(s', a')`.

    `discount` is γ^k for the k steps of the n-step return and 0 where the episode terminated, so
    there is nothing to branch on (Mnih et al. 2015, equation 1; n-step: Sutton & Barto, 7.1).

    Args:
        reward: `[B]`, n-step return. discount: `[B]`.
        next_q: `[B, A]`, the target network's values of the next state.
        next_q_policy: `[B, A]`, the policy network's; if given, it chooses a' and the target
            network evaluates it (double Q-learning, van Hasselt et al. 2016, equation 4).
        legal: `[B, A]` bool, the actions among which a' is chosen; None: among all. A row without
            a legal action gives an arbitrary finite value; its discount must be 0.

    Returns:
        `[B]`, without gradient.
    """
    chooser = next_q if next_q_policy is None else next_q_policy
    if legal is not None:
        # A legal action is greater than an illegal one, even where its value is −∞.
        chooser = chooser.clamp(min=torch.finfo(chooser.dtype).min)
        chooser = chooser.masked_fill(~legal, -torch.inf)
    next_action = chooser.argmax(dim=1, keepdim=True)
    value = next_q.gather(1, next_action).squeeze(1)
    return (reward + discount * value).detach()


def unpack_mask(packed: Tensor, actions: int) -> Tensor:
    """The legal actions of packed masks (`Chunk.next_mask`): `[B, M]` uint8 → `[B, A]` bool."""
    bits = torch.arange(8, device=packed.device, dtype=torch.uint8)
    legal = (packed[:, :, None] >> bits) & 1  # [B, M, 8]
    return legal.flatten(1)[:, :actions].bool()


def taken(q: Tensor, action: Tensor) -> Tensor:
    """q(s, a) of the actions taken: `[B, A]`, `[B]` → `[B]`."""
    return q.gather(1, action[:, None]).squeeze(1)


def huber(error: Tensor, delta: float) -> Tensor:
    """Half the square up to `delta`, then linear with slope `delta` (Huber 1964), element-wise."""
    size = error.abs()
    quadratic = size.clamp(max=delta)
    return quadratic * (size - 0.5 * quadratic)


def weighted_loss(td_error: Tensor, weight: Tensor, delta: float) -> Tensor:
    """Mean over the batch of importance weight × Huber loss: weights act on each element first.

    Args:
        td_error: `[B]`, target − estimate. weight: `[B]`. delta: see `huber`.

    Returns:
        Scalar.
    """
    return torch.mean(weight * huber(td_error, delta))

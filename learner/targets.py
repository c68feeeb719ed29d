"""Targets of q(s, a) and of its distribution: pure functions on tensors, without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from common.value_rescaling import backup


def greedy_actions(q: Tensor, legal: Tensor | None = None) -> Tensor:
    """The actions of the greatest q(s, a): `[B, A]` → `[B]`.

    Args:
        q: `[B, A]`.
        legal: `[B, A]` bool, the actions to choose from; None: all. A row without a legal action
            gives an arbitrary one.
    """
    if legal is not None:
        # A legal action is greater than an illegal one, even where its value is −∞.
        q = q.clamp(min=torch.finfo(q.dtype).min).masked_fill(~legal, -torch.inf)
    return q.argmax(dim=1)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """The values of actions: `[B, A]`, `[B]` → `[B]`, or `[B, A, Z]`, `[B]` → `[B, Z]`."""
    if values.dim() == 2:
        return values.gather(1, action[:, None]).squeeze(1)
    return values[torch.arange(len(values), device=values.device), action]


def bellman_target(
    reward: Tensor,
    discount: Tensor,
    next_q: Tensor,
    next_q_policy: Tensor | None = None,
    legal: Tensor | None = None,
    rescaled: bool = False,
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
        rescaled: whether the networks give rescaled values; the target is one, too.

    Returns:
        `[B]`, without gradient.
    """
    chooser = next_q if next_q_policy is None else next_q_policy
    value = taken(next_q, greedy_actions(chooser, legal))
    return backup(reward, discount, value, rescaled).detach()


def log_policy(q: Tensor, temperature: float, legal: Tensor | None = None) -> Tensor:
    """τ·log π(a|s) of the softmax policy π = softmax(q / τ): `[B, A]` → `[B, A]`, at most 0.

    It is computed as q − v − τ·log Σ exp((q − v) / τ) with v the greatest q, which is exact for
    small τ (Vieillard et al. 2020, appendix B.1).

    Args:
        q: `[B, A]`.
        temperature: τ.
        legal: `[B, A]` bool, the actions that π can take; None: all. −∞ for the others.
    """
    if legal is not None:
        q = q.clamp(min=torch.finfo(q.dtype).min).masked_fill(~legal, -torch.inf)
        # A row without a legal action, of a state after the end: any policy serves.
        q = torch.where(legal.any(dim=1, keepdim=True), q, torch.zeros_like(q))
    advantage = q - q.max(dim=1, keepdim=True).values
    return advantage - temperature * torch.logsumexp(advantage / temperature, dim=1, keepdim=True)


def soft_value(values: Tensor, next_log_policy: Tensor, temperature: float) -> Tensor:
    """Σ_a π(a|s')·(q(s', a) − τ·log π(a|s')), of each number of a distribution alike.

    Vieillard et al. 2020, equation 1 (Munchausen DQN) and section 3.2 (Munchausen IQN).

    Args:
        values: `[B, A]`, or `[B, A, Z]`.
        next_log_policy: `[B, A]`, τ·log π (`log_policy`).
        temperature: τ.

    Returns:
        `[B]`, or `[B, Z]`.
    """
    policy = (next_log_policy / temperature).exp()
    # The entropy's term of an illegal action is 0·(−∞), and counts as 0.
    entropy = -torch.where(policy > 0, policy * next_log_policy, torch.zeros_like(policy)).sum(1)
    if values.dim() == 2:
        return (policy * values).sum(dim=1) + entropy
    return (policy[:, :, None] * values).sum(dim=1) + entropy[:, None]


def munchausen_bonus(
    log_policy_of_state: Tensor, action: Tensor, alpha: float, floor: float
) -> Tensor:
    """α·clip(τ·log π(a|s), floor, 0), added to the first reward (Vieillard et al. 2020, eq. 1).

    Args:
        log_policy_of_state: `[B, A]`, τ·log π(·|s) of the target network (`log_policy`).
        action: `[B]`.
        alpha: its share.
        floor: l₀, negative.

    Returns:
        `[B]`.
    """
    return alpha * taken(log_policy_of_state, action).clamp(min=floor, max=0.0)


def unpack_mask(packed: Tensor, actions: int) -> Tensor:
    """The legal actions of packed masks (`common.item`): `[B, M]` uint8 → `[B, A]` bool."""
    bits = torch.arange(8, device=packed.device, dtype=torch.uint8)
    legal = (packed[:, :, None] >> bits) & 1  # [B, M, 8]
    return legal.flatten(1)[:, :actions].bool()

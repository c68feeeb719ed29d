"""Objectives: the loss of each item of a batch, for each head of a network.

An objective is a function of two networks and a batch. It draws random numbers from the generator
that it gets alone, so that the same step of a run has the same numbers wherever it continues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from common.config_learner import LearnerConfig
from common.losses import cross_entropy, entropy, huber, middles, project, quantile_huber
from common.networks import Categorical, QNetwork
from common.types import Transition
from common.value_rescaling import backup
from learner.precision import Forward
from learner.targets import (
    bellman_target,
    greedy_actions,
    log_policy,
    munchausen_bonus,
    soft_value,
    taken,
    unpack_mask,
)


class ItemLosses(NamedTuple):
    """The outcome of an objective, for each item of a batch.

    Attributes:
        loss: `[B]`, with gradient.
        priority: `[B]`, without: |TD error|, or the loss of a distribution.
        q: `[B]`, q(s, a), without gradient.
        td_error: `[B]`, |target − q|, without gradient; of a distribution, the means count.
    """

    loss: Tensor
    priority: Tensor
    q: Tensor
    td_error: Tensor


class Objective(Protocol):
    """Losses of a batch by two networks of one kind."""

    def __call__(
        self, policy: QNetwork, target: QNetwork, batch: Transition, generator: torch.Generator
    ) -> ItemLosses:
        """The losses; gradients flow into `policy` alone."""


def make_objective(config: LearnerConfig, head: str, forward: Forward) -> Objective:
    """The objective of a head (`network.head`)."""
    return _OBJECTIVES[head](config, forward)


class ValueObjective:
    """The Huber loss of the TD error of q(s, a) (Mnih et al. 2015), double or Munchausen."""

    def __init__(self, config: LearnerConfig, forward: Forward) -> None:
        """For networks of the head `value`."""
        self._config = config
        self._forward = forward

    def __call__(
        self, policy: QNetwork, target: QNetwork, batch: Transition, generator: torch.Generator
    ) -> ItemLosses:
        """See `Objective`."""
        with torch.no_grad():
            wanted = self._target(policy, target, batch)
        q = taken(self._forward(policy, batch.observation), batch.action)
        td_error = wanted - q
        loss = huber(td_error, self._config.huber_delta)
        size = td_error.detach().abs()
        return ItemLosses(loss, size, q.detach(), size)

    def _target(self, policy: QNetwork, target: QNetwork, batch: Transition) -> Tensor:
        next_q = self._forward(target, batch.next_observation)
        legal = _legal(batch, next_q.shape[1])
        if self._config.munchausen:
            q = self._forward(target, batch.observation)
            bonus = _bonus(self._config, q, batch.action)
            soft = _soft(self._config, next_q, next_q, legal)
            wanted: Tensor = batch.reward + bonus + batch.discount * soft
            return wanted
        next_q_policy = None
        if self._config.double:
            next_q_policy = self._forward(policy, batch.next_observation)
        return bellman_target(
            batch.reward,
            batch.discount,
            next_q,
            next_q_policy,
            legal,
            self._config.value_rescaling,
        )


class CategoricalObjective:
    """The cross-entropy of the projected distribution (C51; Bellemare et al. 2017).

    Priorities are Kullback-Leibler divergences (Hessel et al. 2018): the part of the loss that
    learning can remove.
    """

    def __init__(self, config: LearnerConfig, forward: Forward) -> None:
        """For networks of the head `categorical`."""
        self._config = config
        self._forward = forward

    def __call__(
        self, policy: QNetwork, target: QNetwork, batch: Transition, generator: torch.Generator
    ) -> ItemLosses:
        """See `Objective`."""
        head = target.head
        assert isinstance(head, Categorical)
        with torch.no_grad():
            next_logits = self._forward.outputs(target, batch.next_observation)
            chooser = next_logits
            if self._config.double:
                chooser = self._forward.outputs(policy, batch.next_observation)
            next_q = target.values(chooser)
            action = greedy_actions(next_q, _legal(batch, next_q.shape[1]))
            probabilities = taken(next_logits, action).softmax(dim=1)
            values = batch.reward[:, None] + batch.discount[:, None] * head.support
            wanted = project(probabilities, values, head.support)
        logits = self._forward.outputs(policy, batch.observation)
        chosen = taken(logits, batch.action)
        loss = cross_entropy(chosen, wanted)
        divergence = (loss.detach() - entropy(wanted)).clamp(min=0.0)
        q = chosen.detach().softmax(dim=1) @ head.support
        return ItemLosses(loss, divergence, q, (wanted @ head.support - q).abs())


class QuantileObjective:
    """The quantile Huber loss (QR-DQN, IQN; Dabney et al. 2018a, b), double or Munchausen.

    The next action is that of the greatest mean over the quantiles that the target has; for IQN,
    these are its `target_taus` fractions.
    """

    def __init__(self, config: LearnerConfig, forward: Forward, implicit: bool = False) -> None:
        """For networks of the head `quantile`, or `implicit-quantile`."""
        self._config = config
        self._forward = forward
        self._implicit = implicit

    def __call__(
        self, policy: QNetwork, target: QNetwork, batch: Transition, generator: torch.Generator
    ) -> ItemLosses:
        """See `Objective`."""
        with torch.no_grad():
            wanted = self._target(policy, target, batch, generator)  # [B, M]
        drawn = self._draw(batch, self._config.taus, generator)
        quantiles = taken(self._forward.outputs(policy, batch.observation, drawn), batch.action)
        taus = drawn
        if taus is None:
            taus = middles(quantiles.shape[1], quantiles.device)
        loss = quantile_huber(quantiles, taus, wanted, self._config.huber_delta)
        q = quantiles.detach().mean(dim=1)
        # Per quantile, so that a priority has the size of the first one, which an actor gives.
        priority = loss.detach() / quantiles.shape[1]
        return ItemLosses(loss, priority, q, (wanted.mean(dim=1) - q).abs())

    def _target(
        self,
        policy: QNetwork,
        target: QNetwork,
        batch: Transition,
        generator: torch.Generator,
    ) -> Tensor:
        config, count = self._config, self._config.target_taus
        drawn = self._draw(batch, count, generator)
        next_quantiles = self._forward.outputs(target, batch.next_observation, drawn)
        next_q = next_quantiles.mean(dim=2)
        legal = _legal(batch, next_q.shape[1])
        reward: Tensor = batch.reward
        discount: Tensor = batch.discount[:, None]
        if config.munchausen:
            drawn = self._draw(batch, count, generator)
            q = self._forward.outputs(target, batch.observation, drawn).mean(dim=2)
            reward = reward + _bonus(config, q, batch.action)
            return reward[:, None] + discount * _soft(config, next_quantiles, next_q, legal)
        if config.double:
            drawn = self._draw(batch, count, generator)
            next_q = self._forward.outputs(policy, batch.next_observation, drawn).mean(dim=2)
        value = taken(next_quantiles, greedy_actions(next_q, legal))
        return backup(reward[:, None], discount, value, config.value_rescaling)

    def _draw(self, batch: Transition, count: int, generator: torch.Generator) -> Tensor | None:
        """Fractions τ for each item, `[B, count]`; None where the network's are fixed."""
        if not self._implicit:
            return None
        reward: Tensor = batch.reward
        return torch.rand((len(reward), count), generator=generator).to(reward.device)


def _implicit(config: LearnerConfig, forward: Forward) -> Objective:
    return QuantileObjective(config, forward, implicit=True)


_OBJECTIVES: dict[str, Callable[[LearnerConfig, Forward], Objective]] = {
    "value": ValueObjective,
    "categorical": CategoricalObjective,
    "quantile": QuantileObjective,
    "implicit-quantile": _implicit,
}


def _legal(batch: Transition, actions: int) -> Tensor | None:
    """The legal actions of the next states, `[B, A]` bool; None: all are."""
    return None if batch.next_mask is None else unpack_mask(batch.next_mask, actions)


def _bonus(config: LearnerConfig, q: Tensor, action: Tensor) -> Tensor:
    temperature = config.munchausen_temperature
    return munchausen_bonus(
        log_policy(q, temperature), action, config.munchausen_alpha, config.munchausen_floor
    )


def _soft(config: LearnerConfig, values: Tensor, q: Tensor, legal: Tensor | None) -> Tensor:
    temperature = config.munchausen_temperature
    return soft_value(values, log_policy(q, temperature, legal), temperature)

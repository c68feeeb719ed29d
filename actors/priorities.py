"""The first priority of a transition, by the actor's own network.

It has the measure of the priorities that the learner sends later (`learner.objectives`), |TD error|
or the loss of a distribution, but without Munchausen's bonus.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common.config_learner import LearnerConfig
from common.config_network import NetworkConfig
from common.losses import cross_entropy, entropy, middles, project, quantile_huber
from common.network_shapes import numbers_per_action
from common.networks import Categorical, QNetwork
from common.types import Array
from common.value_rescaling import backup

Measure = Callable[[Array, Array, Array, Array], Array]
"""Reward and discount, `[K]` float64, and the outputs of the head for the action taken and for the
greedy action of the state to bootstrap from, `[K, Z]` float32 → priorities, `[K]` float32."""


def numbers_of(config: NetworkConfig) -> int:
    """Z, the numbers that a head gives an actor for each action."""
    if config.head == "implicit-quantile":
        return config.action_taus
    return numbers_per_action(config)


def make_measure(network: QNetwork, head: str, config: LearnerConfig) -> Measure:
    """The measure of a head (`network.head`)."""
    if head == "value":
        return td_error(config.value_rescaling)
    if head == "categorical":
        assert isinstance(network.head, Categorical)
        return _on_tensors(_divergence(network.head.support))
    return _on_tensors(_quantile_loss(config))


def td_error(rescaled: bool = False) -> Measure:
    """|TD error|; see `learner.value_rescaling`."""

    def measure(reward: Array, discount: Array, taken: Array, best: Array) -> Array:
        target = reward + discount * best[:, 0]
        if rescaled:
            columns = (reward, discount, best[:, 0])
            r, d, value = (torch.from_numpy(x.astype(np.float64)) for x in columns)
            target = backup(r, d, value, rescaled=True).numpy()
        priority: Array = np.abs(target - taken[:, 0]).astype(np.float32)
        return priority

    return measure


def _divergence(support: Tensor) -> Callable[..., Tensor]:
    """Kullback-Leibler divergences from the projected target, as `CategoricalObjective`'s."""

    def measure(reward: Tensor, discount: Tensor, taken: Tensor, best: Tensor) -> Tensor:
        values = reward + discount * support
        wanted = project(best.softmax(dim=1), values, support)
        return (cross_entropy(taken, wanted) - entropy(wanted)).clamp(min=0.0)

    return measure


def _quantile_loss(config: LearnerConfig) -> Callable[..., Tensor]:
    """Quantile Huber losses per quantile, at evenly spaced fractions, as `QuantileObjective`'s."""

    def measure(reward: Tensor, discount: Tensor, taken: Tensor, best: Tensor) -> Tensor:
        count = taken.shape[1]
        wanted = backup(reward, discount, best, config.value_rescaling)
        return quantile_huber(taken, middles(count), wanted, config.huber_delta) / count

    return measure


def _on_tensors(function: Callable[..., Tensor]) -> Measure:
    @torch.no_grad()
    def measure(reward: Array, discount: Array, taken: Array, best: Array) -> Array:
        columns = (torch.from_numpy(x.astype(np.float32))[:, None] for x in (reward, discount))
        given = (torch.from_numpy(x) for x in (taken, best))
        priority: Array = function(*columns, *given).numpy()
        return priority

    return measure

"""Heads: the last layers of a network, from features to values of each action.

A head gives Q values, or a distribution of the return for each action: C51's atoms, or quantiles.
Each can be dueling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.config_network import NetworkConfig
from common.losses import middles
from common.network_shapes import numbers_per_action
from common.networks.layers import PLAIN, LayerKind, hidden_layer, output_layer


class Dueling(nn.Module):
    """q(s, a) = v(s) + advantage(s, a) − mean of advantages (Wang et al. 2016, equation 9).

    Each stream has a hidden layer of its own, as in figure 1 of the paper. Without one, the head
    is a linear function of the features, which a single linear layer expresses as well. A
    distribution has the same equation for each of its numbers (Hessel et al. 2018).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        num_actions: int,
        kind: LayerKind = PLAIN,
        numbers: int = 1,
    ) -> None:
        """A head on `inputs` features, with `hidden` units in each stream.

        Args:
            inputs: features that come in.
            hidden: units of the hidden layer of each stream.
            num_actions: A.
            kind: of the layers.
            numbers: Z, for each action.
        """
        super().__init__()
        self._numbers = numbers
        self.value = _stream(inputs, hidden, numbers, kind)
        self.advantage = _stream(inputs, hidden, num_actions * numbers, kind)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, A]`, or `[B, A·Z]` where Z > 1."""
        advantage = self.advantage(features)
        q: Tensor
        if self._numbers == 1:
            q = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
            return q
        advantage = advantage.view(-1, advantage.shape[1] // self._numbers, self._numbers)
        value = self.value(features)[:, None, :]
        q = value + advantage - advantage.mean(dim=1, keepdim=True)
        return q.flatten(1)


class Categorical(nn.Module):
    """The return's distribution over fixed atoms, for each action (C51; Bellemare et al. 2017).

    Attributes:
        support: `[Z]`, values of the atoms, evenly spaced.
    """

    support: Tensor

    def __init__(self, body: nn.Module, num_actions: int, config: NetworkConfig) -> None:
        """A head whose `body` gives `[B, A·Z]` from features."""
        super().__init__()
        self.logits = body
        self._num_actions = num_actions
        support = torch.linspace(config.value_min, config.value_max, config.atoms)
        self.register_buffer("support", support, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the atoms: `[B, inputs]` → `[B, A, Z]`."""
        logits: Tensor = self.logits(features)
        return logits.view(-1, self._num_actions, len(self.support))

    def values(self, logits: Tensor) -> Tensor:
        """Expected returns: `[B, A, Z]` → `[B, A]`."""
        return logits.softmax(dim=2) @ self.support


class Quantile(nn.Module):
    """Quantiles of the return for each action, at fixed fractions (QR-DQN; Dabney et al. 2018a)."""

    def __init__(self, body: nn.Module, num_actions: int, quantiles: int) -> None:
        """A head whose `body` gives `[B, A·Z]` from features; Z is `quantiles`."""
        super().__init__()
        self.quantiles = body
        self._num_actions = num_actions
        self._count = quantiles

    def forward(self, features: Tensor) -> Tensor:
        """Quantiles at the fractions (2i + 1) / 2Z: `[B, inputs]` → `[B, A, Z]`."""
        quantiles: Tensor = self.quantiles(features)
        return quantiles.view(-1, self._num_actions, self._count)

    def values(self, quantiles: Tensor) -> Tensor:
        """Expected returns: `[B, A, Z]` → `[B, A]`."""
        return quantiles.mean(dim=2)


class ImplicitQuantile(nn.Module):
    """Quantiles of the return for each action, at any fractions τ (IQN; Dabney et al. 2018b).

    The features are multiplied by φ(τ) = ReLU(W·cos(π i τ) + b), i = 0 … n−1 (equation 4), before
    the last hidden layer, which is the place that the paper has for a network with one.
    """

    _numbers: Tensor
    _middles: Tensor

    def __init__(self, body: nn.Module, inputs: int, config: NetworkConfig) -> None:
        """A head whose `body` gives `[B, A]` from `inputs` features."""
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(config.cosines, inputs), nn.ReLU())
        self.body = body
        self.register_buffer("_numbers", math.pi * torch.arange(config.cosines), persistent=False)
        self.register_buffer("_middles", middles(config.action_taus), persistent=False)

    def forward(self, features: Tensor, taus: Tensor | None = None) -> Tensor:
        """Quantiles.

        Args:
            features: `[B, inputs]`.
            taus: `[B, T]` in (0, 1); None: `network.action_taus` of them, evenly spaced.

        Returns:
            `[B, A, T]`.
        """
        if taus is None:
            taus = self._middles[None]  # the same for all: one row, which the product repeats
        embedded = self.embedding(torch.cos(taus[:, :, None] * self._numbers))  # [B, T, inputs]
        mixed = features[:, None, :] * embedded
        quantiles: Tensor = self.body(mixed.flatten(0, 1))  # [B·T, A]
        return quantiles.view(-1, taus.shape[1], quantiles.shape[1]).transpose(1, 2)

    def values(self, quantiles: Tensor) -> Tensor:
        """Expected returns: `[B, A, T]` → `[B, A]`."""
        return quantiles.mean(dim=2)


def make_head(
    inputs: int, last_hidden: int | None, num_actions: int, config: NetworkConfig
) -> nn.Module:
    """The head that `network.head` and `network.dueling` name.

    Args:
        inputs: features that come in.
        last_hidden: units of the network's last hidden layer, where the head has it for its own
            (see `owns_last_hidden`).
        num_actions: A.
        config: of the network.
    """
    kind = LayerKind.of(config)
    numbers = numbers_per_action(config)
    body: nn.Module
    if config.dueling:
        assert last_hidden is not None
        body = Dueling(inputs, last_hidden, num_actions, kind, numbers)
    elif last_hidden is not None:
        hidden = hidden_layer(inputs, last_hidden, kind)
        body = nn.Sequential(*hidden, output_layer(last_hidden, num_actions, kind))
    else:
        body = output_layer(inputs, num_actions * numbers, kind)
    if config.head == "categorical":
        return Categorical(body, num_actions, config)
    if config.head == "quantile":
        return Quantile(body, num_actions, config.quantiles)
    if config.head == "implicit-quantile":
        return ImplicitQuantile(body, inputs, config)
    return body


def _stream(inputs: int, hidden: int, outputs: int, kind: LayerKind) -> nn.Sequential:
    return nn.Sequential(*hidden_layer(inputs, hidden, kind), output_layer(hidden, outputs, kind))

"""Fully connected layers: hidden ones, and the last one, which gives values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.config_network import NetworkConfig
from common.networks.noisy import NoisyLinear


class LayerKind(NamedTuple):
    """Options of all fully connected layers of a network.

    Attributes:
        layer_norm: hidden layers normalise over their units before the ReLU (Ba et al. 2016).
        noisy_sigma: initial noise of the weights (`NoisyLinear`); None: no noise.
    """

    layer_norm: bool = False
    noisy_sigma: float | None = None

    @classmethod
    def of(cls, config: NetworkConfig) -> LayerKind:
        """The options that a configuration names."""
        return cls(config.layer_norm, config.noisy_sigma if config.noisy else None)


PLAIN = LayerKind()


class Output(nn.Linear):
    """The linear layer of values, which computes in float32 under torch's autocast, too.

    bfloat16 keeps three digits, too few for the difference of two Q values.
    """

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, outputs]` float32."""
        return _in_float32(super().forward, features)


class NoisyOutput(NoisyLinear):
    """`Output` with noisy weights."""

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, outputs]` float32."""
        return _in_float32(super().forward, features)


def _in_float32(forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """What a layer gives in float32, also where autocast has others compute in bfloat16."""
    kind = features.device.type
    if not torch.is_autocast_enabled(kind):
        return forward(features)
    with torch.autocast(kind, enabled=False):
        return forward(features.float())


def output_layer(inputs: int, outputs: int, kind: LayerKind) -> nn.Module:
    """The last layer of a network or stream: `[B, inputs]` → `[B, outputs]` float32."""
    if kind.noisy_sigma is None:
        return Output(inputs, outputs)
    return NoisyOutput(inputs, outputs, kind.noisy_sigma)


def hidden_layer(inputs: int, units: int, kind: LayerKind) -> list[nn.Module]:
    """A fully connected layer with its ReLU: `[B, inputs]` → `[B, units]`."""
    linear: nn.Module
    if kind.noisy_sigma is None:
        linear = nn.Linear(inputs, units)
    else:
        linear = NoisyLinear(inputs, units, kind.noisy_sigma)
    norm = [nn.LayerNorm(units)] if kind.layer_norm else []
    return [linear, *norm, nn.ReLU()]

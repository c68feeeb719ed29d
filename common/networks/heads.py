"""Heads: the last layers of a network, from features to Q values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.networks.torsos import hidden_layer


class Output(nn.Linear):
    """The linear layer of Q values, which computes in float32 under torch's autocast, too.

    bfloat16 keeps three digits, too few for the difference of two Q values.
    """

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, outputs]` float32."""
        kind = features.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(features)
        with torch.autocast(kind, enabled=False):
            return super().forward(features.float())


class Dueling(nn.Module):
    """q(s, a) = v(s) + advantage(s, a) − mean of advantages (Wang et al. 2016, equation 9).

    Each stream has a hidden layer of its own, as in figure 1 of the paper. Without one, the head
    is a linear function of the features, which a single linear layer expresses as well.
    """

    def __init__(
        self, inputs: int, hidden: int, num_actions: int, layer_norm: bool = False
    ) -> None:
        """A head on `inputs` features, with `hidden` units in each stream, normalised or not."""
        super().__init__()
        self.value = _stream(inputs, hidden, 1, layer_norm)
        self.advantage = _stream(inputs, hidden, num_actions, layer_norm)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, A]`."""
        advantage = self.advantage(features)
        q: Tensor = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
        return q


def _stream(inputs: int, hidden: int, outputs: int, layer_norm: bool) -> nn.Sequential:
    return nn.Sequential(*hidden_layer(inputs, hidden, layer_norm), Output(hidden, outputs))

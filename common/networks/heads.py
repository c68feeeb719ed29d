"""Heads: the last layer of a network, from features to Q values."""

from __future__ import annotations

from torch import Tensor, nn


class Dueling(nn.Module):
    """q(s, a) = v(s) + advantage(s, a) − mean of advantages (Wang et al. 2016, equation 9)."""

    def __init__(self, inputs: int, num_actions: int) -> None:
        super().__init__()
        self.value = nn.Linear(inputs, 1)
        self.advantage = nn.Linear(inputs, num_actions)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, A]`."""
        advantage = self.advantage(features)
        q: Tensor = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
        return q

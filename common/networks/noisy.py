"""Noisy linear layers: exploration by noise on the weights (Fortunato et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class NoisyLinear(nn.Linear):
    """A linear layer whose weights have noise of a learnt size: w = μ + σ ⊙ (f(ε_out) ⊗ f(ε_in)).

    f(x) = sgn(x)·√|x|: the factorised Gaussian noise of Fortunato et al. 2018, equations 9 to 11.
    The noise stays the same until `resample`. A new layer has none.
    """

    weight_sigma: nn.Parameter
    bias_sigma: nn.Parameter
    _noise_in: Tensor
    _noise_out: Tensor

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        """A layer with noise of the same size everywhere.

        Args:
            inputs: features that come in.
            outputs: features that come out.
            sigma: σ₀; the noise begins at σ₀/√inputs (Fortunato et al. 2018, section 3.2).
        """
        super().__init__(inputs, outputs)
        size = sigma / math.sqrt(inputs)
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), size))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), size))
        self.register_buffer("_noise_in", torch.zeros(inputs), persistent=False)
        self.register_buffer("_noise_out", torch.zeros(outputs), persistent=False)
        self._is_noisy = False
        bound = 1.0 / math.sqrt(inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def resample(self, generator: torch.Generator) -> None:
        """Draw other noise.

        Args:
            generator: on the CPU, so that each device gets the same numbers.
        """
        for noise in (self._noise_in, self._noise_out):
            drawn = torch.randn(noise.shape, generator=generator)
            noise.copy_(drawn.sign() * drawn.abs().sqrt())
        self._is_noisy = True

    def silence(self) -> None:
        """Compute without noise, until `resample`."""
        self._is_noisy = False

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs]` → `[B, outputs]`."""
        if not self._is_noisy:
            return super().forward(features)
        weight = self.weight + self.weight_sigma * torch.outer(self._noise_out, self._noise_in)
        bias = self.bias + self.bias_sigma * self._noise_out
        return nn.functional.linear(features, weight, bias)


def noisy_layers(network: nn.Module) -> Iterator[NoisyLinear]:
    """The noisy layers of a network, in the order of their construction."""
    return (layer for layer in network.modules() if isinstance(layer, NoisyLinear))

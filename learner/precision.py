"""The number format in which the learner's networks compute."""

from __future__ import annotations

import torch
from torch import Tensor

from common.config_learner import Precision
from common.networks import QNetwork


class Forward:
    """Computes the Q values of a network in the format that `learner.precision` names.

    Weights, their gradients and the optimiser are float32 in each. In `bf16` torch's autocast has
    the layers compute in bfloat16, except for the one that gives Q values.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """For networks on one device.

        Args:
            precision: `tf32` has a GPU round the factors of products, in this whole process; on a
                CPU it is `fp32`.
            device: of the networks.
        """
        self._device_type = device.type
        self._is_bf16 = precision == "bf16"
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def __call__(self, network: QNetwork, observation: Tensor) -> Tensor:
        """Q values: `[B, S, *frame]` → `[B, A]` float32."""
        return network.values(self.outputs(network, observation))

    def outputs(self, network: QNetwork, observation: Tensor, taus: Tensor | None = None) -> Tensor:
        """What the network's head gives, in float32; see `QNetwork.outputs`."""
        if not self._is_bf16:
            return network.outputs(observation, taus)
        with torch.autocast(self._device_type, torch.bfloat16):
            return network.outputs(observation, taus)

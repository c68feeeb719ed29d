"""The deep Q-network: a stack of consecutive frames in, one q(s, a) for each action out.

The policy network and the target network are two instances of it. Actors and evaluators hold copies
of the policy network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.config_network import NetworkConfig
from common.network_shapes import NOTEBOOK_HIDDEN, is_convolutional
from common.networks.heads import Dueling, Output
from common.networks.torsos import checked_picture, convolutions, hidden_layer
from common.types import EnvironmentSpec


class QNetwork(nn.Module):
    """q(s, ·), of each kind that `NetworkConfig` names.

    The network scales the frames itself, so that 8-bit pictures stay 8-bit until they are on the
    device.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig) -> None:
        """Draws the weights from torch's global generator; `make_network` seeds it.

        Raises:
            UserError: a convolution on vectors, or on pictures too small for it.
        """
        super().__init__()
        self._scale = spec.frame.scale
        self._is_convolution = is_convolutional(config.kind)
        shape = spec.frame.shape
        layers: list[nn.Module] = []
        if self._is_convolution:
            channels, height, width = checked_picture(spec.frame, config.kind)
            torso, features = convolutions(
                config.kind, channels * spec.stack, height, width, config.layer_norm
            )
            layers.append(torso)
        else:
            features = spec.stack * int(torch.Size(shape).numel())
        hidden = NOTEBOOK_HIDDEN if config.kind == "notebook" else config.hidden
        layers.append(nn.Flatten())
        # The last hidden layer of a dueling network is in its streams, one for each.
        for units in hidden[:-1] if config.dueling else hidden:
            layers += hidden_layer(features, units, config.layer_norm)
            features = units
        if config.dueling:
            layers.append(Dueling(features, hidden[-1], spec.num_actions, config.layer_norm))
        else:
            layers.append(Output(features, spec.num_actions))
        self.layers = nn.Sequential(*layers)
        if self._is_convolution:  # channels last: faster on CPU and GPU alike
            # torch's stubs lack this overload, its documentation has it
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """Q values.

        Args:
            observation: `[B, S, *frame]`, uint8 or float32, oldest frame first.

        Returns:
            `[B, A]` float32.
        """
        x = observation
        if self._is_convolution:
            # [B, S·C, H, W]; reordered while it is still 8-bit.
            x = x.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        is_copy = x.dtype != torch.float32  # so that scaling in place saves a pass over memory
        x = x.to(torch.float32)
        if self._scale != 1.0:
            x = x.mul_(self._scale) if is_copy else x * self._scale
        q: Tensor = self.layers(x)
        return q


def make_network(spec: EnvironmentSpec, config: NetworkConfig, seed: int = 0) -> QNetwork:
    """A network whose weights depend on `seed` alone. torch's global generator stays unchanged."""
    with torch.random.fork_rng(devices=[]):
        # Weights are drawn on the CPU; `torch.manual_seed` would seed all devices, for good.
        torch.default_generator.manual_seed(seed)
        return QNetwork(spec, config)


def shape_difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The first parameter that is missing, surplus or of another shape, in words, or None.

    Args:
        given: parameters by name, as read.
        wanted: those of the network that would take them.
    """
    if _has_linear_streams(given) and not _has_linear_streams(wanted):
        return (
            "its dueling streams have no hidden layer, since an earlier version of raydqn wrote "
            "it; train anew, or use that version"
        )
    for name in {**given, **wanted}:
        have = tuple(given[name].shape) if name in given else None
        want = tuple(wanted[name].shape) if name in wanted else None
        if have != want:
            return f"{name} is {have} there and must be {want}"
    return None


def _has_linear_streams(parameters: Mapping[str, Tensor]) -> bool:
    """Whether a dueling head is of the earlier kind: one linear layer per stream."""
    return any(name.endswith(".advantage.weight") for name in parameters)

"""The deep Q-network: a stack of consecutive frames in, one q(s, a) for each action out.

The policy network and the target network are two instances of it. Actors and evaluators hold copies
of the policy network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.config_network import NetworkConfig
from common.network_shapes import (
    NOTEBOOK_HIDDEN,
    is_convolutional,
    is_own,
    owns_last_hidden,
    torso_sides,
)
from common.networks.heads import (
    Categorical,
    ImplicitQuantile,
    Quantile,
    make_head,
)
from common.networks.layers import LayerKind, hidden_layer
from common.networks.own_torso import make_own_torso
from common.networks.torsos import checked_picture, make_torso, torso_channels
from common.types import EnvironmentSpec

CHANNELS_FIRST = ("minatar-cnn",)
"""Torsos that a CPU computes faster in torch's own memory format: one layer of few channels."""


class QNetwork(nn.Module):
    """q(s, ·), of each kind that `NetworkConfig` names.

    The network scales the frames itself, so that 8-bit pictures stay 8-bit until they are on the
    device.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig) -> None:
        """Draws the weights from torch's global generator; `make_network` seeds it.

        Raises:
            UserError: a convolution on vectors, or on pictures too small for it; or see
                `make_own_torso`.
        """
        super().__init__()
        self._scale = spec.frame.scale
        self._is_convolution = is_convolutional(config.kind)
        self._joins_stack = self._is_convolution or (spec.frame.is_picture and is_own(config.kind))
        shape = spec.frame.shape
        layers: list[nn.Module] = []
        if is_own(config.kind):
            if not spec.frame.is_picture:
                layers.append(nn.Flatten())
            torso, features = make_own_torso(config.kind, (spec.stack * shape[0], *shape[1:]))
            layers.append(torso)
        elif self._is_convolution:
            channels, height, width = checked_picture(spec.frame, config.kind)
            torso = make_torso(config, channels * spec.stack)
            rows, columns = torso_sides(config, height, width)
            features = torso_channels(config) * rows * columns
            layers.append(torso)
        else:
            features = spec.stack * int(torch.Size(shape).numel())
        hidden = NOTEBOOK_HIDDEN if config.kind == "notebook" else config.hidden
        layers.append(nn.Flatten())
        of_head = owns_last_hidden(config)
        for units in hidden[:-1] if of_head else hidden:
            layers += hidden_layer(features, units, LayerKind.of(config))
            features = units
        last = hidden[-1] if of_head else None
        layers.append(make_head(features, last, spec.num_actions, config))
        self.layers = nn.Sequential(*layers)
        self._is_channels_last = self._is_convolution and config.kind not in CHANNELS_FIRST
        if self._is_channels_last:  # faster on CPU and GPU alike
            # torch's stubs lack this overload, its documentation has it
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def head(self) -> nn.Module:
        """The last layers, from features to values of each action."""
        return self.layers[-1]

    def forward(self, observation: Tensor) -> Tensor:
        """Q values.

        Args:
            observation: `[B, S, *frame]`, uint8 or float32, oldest frame first.

        Returns:
            `[B, A]` float32.
        """
        return self.values(self.outputs(observation))

    def outputs(self, observation: Tensor, taus: Tensor | None = None) -> Tensor:
        """What the head gives: Q values `[B, A]`, or Z numbers of a distribution `[B, A, Z]`.

        Args:
            observation: `[B, S, *frame]`, uint8 or float32, oldest frame first.
            taus: `[B, Z]`, the fractions of implicit quantiles; None: evenly spaced.
        """
        x = observation
        if self._joins_stack:
            x = x.flatten(1, 2)  # [B, S·C, H, W]
        if self._is_channels_last:
            # Reordered while it is still 8-bit.
            x = x.contiguous(memory_format=torch.channels_last)
        is_copy = x.dtype != torch.float32  # so that scaling in place saves a pass over memory
        x = x.to(torch.float32)
        if self._scale != 1.0:
            x = x.mul_(self._scale) if is_copy else x * self._scale
        given: Tensor
        if taus is None:
            given = self.layers(x)
        else:
            *torso, head = self.layers
            for layer in torso:
                x = layer(x)
            given = head(x, taus)
        return given

    def values(self, outputs: Tensor) -> Tensor:
        """Q values of what `outputs` gave: `[B, A]` or `[B, A, Z]` → `[B, A]`."""
        head = self.layers[-1]
        if isinstance(head, Categorical | Quantile | ImplicitQuantile):
            return head.values(outputs)
        return outputs


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

"""The layers of each kind of network as numbers, without torch, whose import is slow.

`common.networks` makes the modules from them; a run's memory is computed from them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from common.config_network import NetworkConfig
from common.types import EnvironmentSpec

NOTEBOOK_HIDDEN = (24, 32)
"""Units of the hidden layers of the notebook's network."""


class Convolution(NamedTuple):
    """A convolution without padding, followed by a ReLU."""

    outputs: int
    kernel: int
    stride: int

    def side(self, size: int) -> int:
        """Pixels that are left of a side of `size` pixels; 0: the side is too short."""
        return max(0, (size - self.kernel) // self.stride + 1)


CONVOLUTIONS = {
    # Mnih et al. 2015, Methods, "Model architecture"
    "nature-cnn": (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)),
    # finer strides, for pictures of about 42×42: 32 × 7 × 7 features are left of them
    "small-cnn": (Convolution(16, 4, 2), Convolution(32, 4, 2), Convolution(32, 3, 1)),
    # Young and Tian 2019: examples/dqn.py of MinAtar
    "minatar-cnn": (Convolution(16, 3, 1),),
}
"""The convolutional torsos, by `network.kind`."""
IMPALA, IMPALA_CHANNELS = "impala-cnn", (16, 32, 32)
"""The residual torso of Espeholt et al. 2018, figure 3 (right): channels of its three blocks."""


def is_convolutional(kind: str) -> bool:
    """Whether networks of a `network.kind` begin with convolutions."""
    return kind in CONVOLUTIONS or kind == IMPALA


def is_own(kind: str) -> bool:
    """Whether a `network.kind` is a class of the user's own, `package.module:Class`."""
    return ":" in kind


def sides_left(kind: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of what the last convolution of a kind gives; 0: the picture is too small.

    Args:
        kind: a convolutional one.
        height, width: of a picture, pixels.
    """
    if kind == IMPALA:  # each block halves the sides, rounded up
        for _ in IMPALA_CHANNELS:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width
    for convolution in CONVOLUTIONS[kind]:
        height, width = convolution.side(height), convolution.side(width)
    return height, width


def min_pixels(kind: str) -> int:
    """The shortest side of a picture that a convolutional kind can take."""
    side = 1
    for convolution in reversed(CONVOLUTIONS.get(kind, ())):
        side = (side - 1) * convolution.stride + convolution.kernel
    return side


def warning_of_torso(network: NetworkConfig, spec: EnvironmentSpec) -> str | None:
    """A warning where the convolutions leave one position of the picture, else None.

    The position of things in the picture is then lost to the layers that follow.

    Args:
        network: of the configuration.
        spec: of pictures that the convolutions can take.
    """
    kind = network.kind
    if kind not in CONVOLUTIONS or not spec.frame.is_picture:
        return None
    _, height, width = spec.frame.shape
    if sides_left(kind, height, width) != (1, 1):
        return None
    outputs = CONVOLUTIONS[kind][-1].outputs
    finer = [
        name
        for name in CONVOLUTIONS
        if min(sides_left(name, height, width)) > 1 and name != "minatar-cnn"
    ]
    advice = f"network.kind={finer[0]} or larger pictures" if finer else "larger pictures"
    return (
        f"network.kind={kind}: its last convolution sees a picture of {height}×{width} as one "
        f"pixel, and {outputs} features are left of it; little may be learnt, use {advice}"
    )


def parameter_count(network: NetworkConfig, spec: EnvironmentSpec) -> int:
    """Parameters of the network that `make_network` makes, if it takes frames of this kind.

    Not for a torso of the user's own: that one must be made to be counted.
    """
    count = 0
    norm = 2 if network.layer_norm else 0  # gain and bias of each unit or channel
    features = spec.stack * math.prod(spec.frame.shape)
    if is_convolutional(network.kind) and spec.frame.is_picture:
        inputs = spec.stack * spec.frame.shape[0]
        for outputs, kernel in _convolutions(network):
            count += outputs * (inputs * kernel**2 + 1 + norm)
            inputs = outputs
        features = inputs * math.prod(torso_sides(network, *spec.frame.shape[1:]))
    hidden = NOTEBOOK_HIDDEN if network.kind == "notebook" else network.hidden
    for units in hidden[:-1] if owns_last_hidden(network) else hidden:
        count += _linear(network, features, units) + units * norm
        features = units
    last = hidden[-1] if owns_last_hidden(network) else None
    return count + _head_count(network, features, last, spec.num_actions)


def torso_sides(network: NetworkConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width of what a convolutional torso gives for a picture, in positions."""
    if network.kind == IMPALA and network.pool is not None:
        return network.pool, network.pool
    return sides_left(network.kind, height, width)


def _convolutions(network: NetworkConfig) -> list[tuple[int, int]]:
    """Channels and kernel of each convolution of the torso, in their order."""
    if network.kind != IMPALA:
        return [(outputs, kernel) for outputs, kernel, _ in CONVOLUTIONS[network.kind]]
    # One at the start of a block, and two in each of its two residual parts.
    return [(network.width * channels, 3) for channels in IMPALA_CHANNELS for _ in range(5)]


def _head_count(network: NetworkConfig, features: int, last: int | None, actions: int) -> int:
    """Parameters of the head; `last`: units of the hidden layer that is its own."""
    count = features * (network.cosines + 1) if network.head == "implicit-quantile" else 0
    numbers = numbers_per_action(network)
    outputs = (numbers, actions * numbers) if network.dueling else (actions * numbers,)
    for size in outputs:  # of each stream
        if last is not None:
            count += _linear(network, features, last) + (2 * last if network.layer_norm else 0)
        count += _linear(network, last or features, size)
    return count


def _linear(network: NetworkConfig, inputs: int, outputs: int) -> int:
    return outputs * (inputs + 1) * (2 if network.noisy else 1)  # each weight and its noise


def owns_last_hidden(network: NetworkConfig) -> bool:
    """Whether the last hidden layer is the head's: one for each stream, or after IQN's product."""
    return network.dueling or network.head == "implicit-quantile"


def numbers_per_action(network: NetworkConfig) -> int:
    """Z, outputs of the last layer for each action."""
    return {"categorical": network.atoms, "quantile": network.quantiles}.get(network.head, 1)

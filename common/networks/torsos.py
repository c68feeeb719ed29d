"""Torsos: the first layers of a network, from pictures to features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from common.config_network import NetworkConfig
from common.errors import UserError
from common.network_shapes import CONVOLUTIONS, IMPALA, IMPALA_CHANNELS, min_pixels
from common.types import FrameSpec


def checked_picture(frame: FrameSpec, kind: str) -> tuple[int, int, int]:
    """Channels, height and width of pictures that a convolutional torso can take.

    Args:
        frame: shape and type of a frame.
        kind: `network.kind`, a convolutional one.

    Raises:
        UserError: the frames are vectors, or pictures too small for the torso.
    """
    if not frame.is_picture:
        raise UserError(
            f"network.kind={kind}: needs pictures, but the observation is a vector of "
            f"{frame.shape[0]}; use mlp, or env.observation=pixels"
        )
    channels, height, width = frame.shape
    least = min_pixels(kind)
    if min(height, width) < least:
        fitting = [name for name in CONVOLUTIONS if min_pixels(name) <= min(height, width)]
        advice = f"; use {' or '.join(fitting)}" if fitting else "; use mlp"
        raise UserError(
            f"network.kind={kind}: needs pictures of {least}×{least} or larger, "
            f"not {height}×{width}{advice}"
        )
    return channels, height, width


def make_torso(config: NetworkConfig, channels: int) -> nn.Module:
    """The convolutions that `network.kind` names: `[B, channels, H, W]` → `[B, C, H', W']`.

    C is `torso_channels`, H' and W' are `torso_sides`. With `network.layer_norm`, the output of
    each convolution is normalised over channels, height and width, with a gain and a bias for each
    channel.

    Args:
        config: of a convolutional network.
        channels: of the input: stack × channels of a frame.
    """
    if config.kind == IMPALA:
        return _impala(config, channels)
    layers: list[nn.Module] = []
    for outputs, kernel, stride in CONVOLUTIONS[config.kind]:
        convolution = nn.Conv2d(channels, outputs, kernel_size=kernel, stride=stride)
        layers += [*_normalised(convolution, outputs, config), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers)


def torso_channels(config: NetworkConfig) -> int:
    """C, channels that the torso gives."""
    if config.kind == IMPALA:
        return config.width * IMPALA_CHANNELS[-1]
    return CONVOLUTIONS[config.kind][-1].outputs


class Residual(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), of as many channels (He et al. 2016, figure 4e)."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        """Two 3×3 convolutions of `channels`."""
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            convolution: nn.Module = nn.Conv2d(channels, channels, 3, padding=1)
            if config.spectral_norm:
                convolution = spectral_norm(convolution)
            layers += [nn.ReLU(), *_normalised(convolution, channels, config)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → the same."""
        changed: Tensor = self.layers(x)
        return x + changed


def _impala(config: NetworkConfig, channels: int) -> nn.Sequential:
    """The residual torso of Espeholt et al. 2018; pooled at its end as in Clark et al. 2024."""
    layers: list[nn.Module] = []
    for base in IMPALA_CHANNELS:
        outputs = config.width * base
        first = nn.Conv2d(channels, outputs, 3, padding=1)
        layers += [*_normalised(first, outputs, config), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [Residual(outputs, config), Residual(outputs, config)]
        channels = outputs
    layers.append(nn.ReLU())
    if config.pool is not None:
        layers.append(nn.AdaptiveMaxPool2d(config.pool))
    return nn.Sequential(*layers)


def _normalised(convolution: nn.Module, channels: int, config: NetworkConfig) -> list[nn.Module]:
    return [convolution, nn.GroupNorm(1, channels)] if config.layer_norm else [convolution]

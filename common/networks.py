"""The deep Q-network: a stack of consecutive frames in, one q(s, a) for each action out.

Policy net and target net are two of the same; actors and evaluators hold copies of the policy net.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.config_sections import NATURE_CONVOLUTIONS, NOTEBOOK_HIDDEN, NetworkConfig
from common.errors import UserError
from common.types import EnvironmentSpec

NATURE_MIN_PIXELS = 36
DEVICES = ("cpu", "cuda", "mps")


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


class QNetwork(nn.Module):
    """q(s, ·) of any of the kinds in `NetworkConfig`.

    Frames come as they are stored and are scaled here, so that 8-bit pictures stay 8-bit on
    their whole way to the device.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig) -> None:
        """Weights are drawn from torch's global generator: see `make_network`.

        Raises:
            UserError: a convolution on vectors, or on pictures too small for it.
        """
        super().__init__()
        self._scale = spec.frame.scale
        self._is_convolution = config.kind == "nature-cnn"
        shape = spec.frame.shape
        layers: list[nn.Module] = []
        if self._is_convolution:
            if not spec.frame.is_picture:
                raise UserError(
                    f"network.kind={config.kind}: needs pictures, but the observation is a vector "
                    f"of {shape[0]}; use mlp, or env.observation=pixels"
                )
            channels, height, width = shape
            if min(height, width) < NATURE_MIN_PIXELS:
                raise UserError(
                    f"network.kind={config.kind}: needs pictures of {NATURE_MIN_PIXELS}×"
                    f"{NATURE_MIN_PIXELS} pixels or more, not {height}×{width}"
                )
            torso, features = nature_torso(channels * spec.stack, height, width)
            layers.append(torso)
        else:
            features = spec.stack * int(torch.Size(shape).numel())
        hidden = NOTEBOOK_HIDDEN if config.kind == "notebook" else config.hidden
        layers.append(nn.Flatten())
        for units in hidden:
            layers += [nn.Linear(features, units), nn.ReLU()]
            features = units
        head = Dueling if config.dueling else nn.Linear
        layers.append(head(features, spec.num_actions))
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
        is_copy = x.dtype != torch.float32  # then scaling in place spares a pass over memory
        x = x.to(torch.float32)
        if self._scale != 1.0:
            x = x.mul_(self._scale) if is_copy else x * self._scale
        q: Tensor = self.layers(x)
        return q


def nature_torso(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """Convolutions of Mnih et al. 2015 (Methods, "Model architecture"), and their output size."""

    def out(size: int) -> int:
        for _, kernel, stride in NATURE_CONVOLUTIONS:
            size = (size - kernel) // stride + 1
        return size

    layers: list[nn.Module] = []
    for outputs, kernel, stride in NATURE_CONVOLUTIONS:
        layers += [nn.Conv2d(channels, outputs, kernel_size=kernel, stride=stride), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers), channels * out(height) * out(width)


def make_network(spec: EnvironmentSpec, config: NetworkConfig, seed: int = 0) -> QNetwork:
    """A network whose weights depend on `seed` alone; torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(spec, config)


def shape_difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The first parameter that is missing, too many or of another shape, in words; None if none."""
    for name in {**given, **wanted}:
        have = tuple(given[name].shape) if name in given else None
        want = tuple(wanted[name].shape) if name in wanted else None
        if have != want:
            return f"{name} is {have} there and must be {want}"
    return None


def choose_device(name: str) -> torch.device:
    """The device that `learner.device` names.

    Args:
        name: `auto` (CUDA when there is one, else CPU) or what torch calls a device.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in DEVICES:
        raise UserError(f"learner.device={name}: must be auto or one of {', '.join(DEVICES)}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"learner.device={name}: cannot be used here ({reason})") from None
    return device

"""Networks: torsos, heads, the Q-network made of them, and the device that it runs on."""

from common.networks.device import choose_device, describe_device
from common.networks.heads import Categorical, Dueling
from common.networks.network import QNetwork, make_network, shape_difference
from common.networks.noisy import noisy_layers

__all__ = [
    "Categorical",
    "Dueling",
    "QNetwork",
    "choose_device",
    "describe_device",
    "make_network",
    "noisy_layers",
    "shape_difference",
]

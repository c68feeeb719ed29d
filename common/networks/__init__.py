"""Networks: torsos, heads, the Q-network made of them, and the device that it runs on."""

from common.networks.device import choose_device, describe_device
from common.networks.heads import Dueling
from common.networks.network import QNetwork, make_network, shape_difference

__all__ = [
    "Dueling",
    "QNetwork",
    "choose_device",
    "describe_device",
    "make_network",
    "shape_difference",
]

"""The device that networks run on."""

from __future__ import annotations

import torch

from common.errors import UserError

DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The device that `learner.device` names.

    Args:
        name: `auto` (CUDA if there is a GPU, else the CPU) or torch's name of a device.

    Raises:
        UserError: an unknown name, or a device that this machine lacks.
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

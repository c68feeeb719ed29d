"""The device that networks run on."""

from __future__ import annotations

import os

import torch

from common.errors import UserError

DEVICES = ("cpu", "cuda", "mps")
RESERVED = "CUDA_VISIBLE_DEVICES"
"""Ray sets it for a process that a GPU is reserved for, and users do so themselves."""


def choose_device(name: str) -> torch.device:
    """The device that `learner.device` names.

    Args:
        name: `auto` (CUDA if there is a GPU, else the CPU) or torch's name of a device.

    Raises:
        UserError: an unknown name, a device that this machine lacks, or `auto` where a GPU is
            reserved for this process and torch cannot use it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        _check_no_gpu_is_idle()
        return torch.device("cpu")
    if name.partition(":")[0] not in DEVICES:
        raise UserError(f"learner.device={name}: must be auto or one of {', '.join(DEVICES)}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"learner.device={name}: cannot be used here ({reason})") from None
    return device


def describe_device(device: torch.device) -> str:
    """Device and build of torch in words, such as `cuda:0 (NVIDIA A10G), torch 2.13.0+cu126`."""
    name = str(device)
    if device.type == "cuda":
        name = f"{name} ({torch.cuda.get_device_name(device)})"
    return f"{name}, torch {torch.__version__}"


def _check_no_gpu_is_idle() -> None:
    """Refuse to leave a reserved GPU idle: a run on the CPU would cost as much, and take days.

    Raises:
        UserError: a GPU is reserved for this process, and torch cannot use CUDA.
    """
    reserved = os.environ.get(RESERVED, "").strip()
    if reserved in ("", "-1", "NoDevFiles"):
        return
    cuda = getattr(torch.version, "cuda", None)  # stubs of a CPU build know None only
    if cuda is None:
        reason = "is a build without CUDA"
        advice = "install torch's CUDA build on that node (https://pytorch.org/get-started)"
    else:
        reason = f"cannot use CUDA {cuda} ({_cuda_error()})"
        advice = "install a driver that is new enough for it, or a torch built for an older CUDA"
    raise UserError(
        f"learner.device=auto: GPU {reserved} is reserved for the learner ({RESERVED}), but torch "
        f"{torch.__version__} {reason}; {advice}, or use --learner.device cpu"
    )


def _cuda_error() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return "no device answers"

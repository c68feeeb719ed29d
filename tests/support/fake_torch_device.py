"""One more device for torch, `elsewhere`, on a machine without a GPU; for a process of its own.

Its tensors are kept by the CPU and computed there, by torch's own kernels; but torch, and its
callers, must treat them as any other device's: what is not moved to them, or back, is an error.
`learner.device` may be `elsewhere` where this module was imported. (It is a little milder than
CUDA: a number on the CPU passes in every operation, there in those that go element by element.)
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from common.networks import device

NAME = "elsewhere"
aten = torch.ops.aten
calls: Counter[str] = Counter()


class Elsewhere(torch.Tensor):
    """A tensor without memory of its own, that stands for one on the CPU."""

    kept: torch.Tensor

    @staticmethod
    def __new__(cls, kept: torch.Tensor) -> Elsewhere:
        assert kept.dtype != torch.float64, "unknown to some devices: Apple's, for one"
        return torch.Tensor._make_wrapper_subclass(
            *(cls, kept.shape, kept.stride(), kept.storage_offset()),
            dtype=kept.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, kept: torch.Tensor) -> None:
        self.kept = kept

    def tolist(self):
        return self.cpu().tolist()  # torch has none for classes derived from its own

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        calls[operation.name()] += 1
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # Only copies go from device to device. As on CUDA, a number may come from the CPU.
        moves = operation in (aten.copy_.default, aten._to_copy.default)
        for leaf in leaves:
            if not (moves or isinstance(leaf, cls) or leaf.dim() == 0):
                raise RuntimeError(f"{operation}: {tuple(leaf.shape)} on {leaf.device}, not {NAME}")
        target = kwargs.get("device")
        made = operation(*tree_map(to_cpu, args), **tree_map(to_cpu, kwargs))
        if operation is aten.copy_.default:
            return args[0]
        if target is not None and torch.device(target).type != NAME:
            return made
        given = {id(leaf.kept): leaf for leaf in leaves if isinstance(leaf, cls)}
        return tree_map(lambda one: given[id(one)] if id(one) in given else from_cpu(one), made)


def to_cpu(value):
    if isinstance(value, Elsewhere):
        return value.kept
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value


def from_cpu(value):
    return Elsewhere(value) if isinstance(value, torch.Tensor) else value


def begin(operation):
    """The operation that makes a tensor from nothing, on this device."""

    def make(*args, device=None, pin_memory=None, **kwargs):
        calls[operation.name()] += 1
        return Elsewhere(operation(*args, **kwargs))

    return make


_setup_privateuseone_for_python_backend(NAME)
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", begin(aten.empty.memory_format), "PrivateUse1")
_library.impl("empty_strided", begin(aten.empty_strided.default), "PrivateUse1")
device.DEVICES += (NAME,)

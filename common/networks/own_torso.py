"""A torso of the user's own: `network.kind = "package.module:Class"`."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError, first_line
from common.suggestion import suggest


def make_own_torso(kind: str, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The module `Class(shape)`, and the number of features that it gives for one input.

    The number is found by forward passes of zeros, one input and two, in evaluation mode.

    Args:
        kind: `network.kind`, `package.module:Class`.
        shape: of one input: `(S·C, H, W)` of pictures, `(S·N,)` of vectors.

    Raises:
        UserError: the class does not exist, fails, or breaks the contract of docs/algorithms.md.
    """
    made = _made(kind, shape)
    if not isinstance(made, nn.Module):
        class_name = kind.rpartition(":")[2]
        raise UserError(
            f"network.kind={kind}: {class_name}({shape}) gives a {type(made).__name__}, but must "
            "give a torch.nn.Module"
        )
    for name, tensor in made.state_dict().items():
        if tensor.dtype != torch.float32:
            raise UserError(
                f"network.kind={kind}: {name} is {_plain(tensor.dtype)}, but parameters and "
                "buffers must be float32; use nn.GroupNorm or nn.LayerNorm, not nn.BatchNorm"
            )
    of_one, of_each = (_features(kind, made, count, shape) for count in (1, 2))
    if of_one != of_each:
        raise UserError(
            f"network.kind={kind}: forward gives {of_one} features of one input, but {of_each} of "
            "each of two; it must give as many of each, whatever the batch"
        )
    _check_gradients(kind, made, shape)
    return made, of_one


def _check_gradients(kind: str, torso: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse parameters that are to be trained and get no gradient."""
    given = _called(kind, torso, torch.zeros(2, *shape))
    if given.requires_grad:
        try:
            given.sum().backward()
        except (Exception, SystemExit) as error:  # a user's class may raise anything
            raise UserError(
                f"network.kind={kind}: its gradient raised {_described(error)}"
            ) from error
    trained = [(name, p) for name, p in torso.named_parameters() if p.requires_grad]
    unused = [name for name, parameter in trained if parameter.grad is None]
    torso.zero_grad()
    if unused:
        raise UserError(
            f"network.kind={kind}: {unused[0]} gets no gradient; use it in forward, or set its "
            "requires_grad to False"
        )


def _made(kind: str, shape: tuple[int, ...]) -> Any:
    module_name, _, class_name = kind.rpartition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise UserError(
            f"network.kind={kind}: {module_name} cannot be imported ({_described(error)})"
        ) from error
    try:
        found = getattr(module, class_name)
    except AttributeError:
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise UserError(
            f"network.kind={kind}: {module_name} has no {class_name}{suggest(class_name, names)}"
        ) from None
    if not callable(found):
        raise UserError(f"network.kind={kind}: {class_name} is not a class")
    try:
        return found(shape)
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise UserError(
            f"network.kind={kind}: {class_name}({shape}) raised {_described(error)}"
        ) from error


def _features(kind: str, torso: nn.Module, count: int, shape: tuple[int, ...]) -> int:
    """Features of each of `count` inputs."""
    size = [count, *shape]
    with torch.no_grad():
        given = _called(kind, torso, torch.zeros(size))
    if not isinstance(given, Tensor):
        raise UserError(
            f"network.kind={kind}: forward gives a {type(given).__name__}, not a tensor"
        )
    if given.dtype != torch.float32:
        raise UserError(
            f"network.kind={kind}: forward gives {_plain(given.dtype)}, but must give float32"
        )
    if given.dim() < 2 or len(given) != count or given[0].numel() == 0:
        raise UserError(
            f"network.kind={kind}: forward of a tensor {size} gives {list(given.shape)}, but must "
            f"give features of each input: [{count}, …]"
        )
    return given[0].numel()


def _called(kind: str, torso: nn.Module, x: Tensor) -> Any:
    """What `forward` gives in evaluation mode; refuses one that changes its input."""
    modes = {module: module.training for module in torso.modules()}
    given_in = x.clone()
    try:
        given = torso.eval()(x)
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise UserError(
            f"network.kind={kind}: forward of a tensor {list(x.shape)} raised {_described(error)}"
        ) from error
    for module, mode in modes.items():
        module.training = mode
    if not torch.equal(x, given_in):
        raise UserError(
            f"network.kind={kind}: forward changes its input in place; it must work on a copy"
        )
    return given


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

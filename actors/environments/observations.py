"""What an environment returns, held against what it declares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from common.types import Array

spaces = gym.spaces


def empty_part(space: gym.Space[Any], name: str = "observation") -> str | None:
    """The part of a space that holds no number or no valid bounds, in words; None if there is none.

    Args:
        space: of observations.
        name: of the space.
    """
    if isinstance(space, spaces.Dict):
        parts = [(f"{name}[{key!r}]", part) for key, part in space.items()]
    elif isinstance(space, spaces.Tuple):
        parts = [(f"{name}[{i}]", part) for i, part in enumerate(space)]
    elif isinstance(space, spaces.Box) and np.isnan([space.low, space.high]).any():
        return f"{name} has NaN among its bounds"
    elif space.shape is not None and 0 in space.shape:
        return f"{name} has shape {space.shape}, which holds no number"
    else:
        return None
    if not parts:
        return f"{name} is an empty {type(space).__name__}"
    return next(filter(None, (empty_part(part, part_name) for part_name, part in parts)), None)


def mismatch(space: gym.Space[Any], value: Any, name: str = "observation") -> str | None:
    """How an observation differs from its declared space, in words; None if it fits.

    The bounds of a Box do not count: many environments step a little over them.

    Args:
        space: as the environment declares it.
        value: as the environment returned it.
        name: of the observation.
    """
    if isinstance(space, spaces.Box):
        return _box_mismatch(space, value, name)
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space):
            given = sorted(map(str, value)) if isinstance(value, Mapping) else _kind(value)
            return f"{name} is {given}, declared is a Dict of {sorted(map(str, space))}"
        parts = [(f"{name}[{key!r}]", part, value[key]) for key, part in space.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space):
            return f"{name} is {_kind(value)}, declared is a Tuple of {len(space)}"
        parts = [(f"{name}[{i}]", part, value[i]) for i, part in enumerate(space)]
    elif isinstance(space, spaces.Discrete):
        return _discrete_mismatch(space, value, name)
    elif isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        fits = np.shape(value) == space.shape and space.contains(np.asarray(value, space.dtype))
        return None if fits else f"{name} is {short(value)}, declared is {space}"
    else:
        return None
    return next(filter(None, (mismatch(*part[1:], name=part[0]) for part in parts)), None)


def is_as_before(space: gym.Space[Any], value: Any) -> bool:
    """A quick look: an array of the declared shape and type holds nothing that it must not."""
    return (
        isinstance(space, spaces.Box)
        and type(value) is np.ndarray
        and value.dtype == space.dtype
        and value.shape == space.shape
    )


def _box_mismatch(space: gym.spaces.Box, value: Any, name: str) -> str | None:
    try:
        array: Array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return f"{name} is {short(value)}, declared is an array of shape {space.shape}"
    if array.dtype.kind not in "biuf":
        return f"{name} is {_kind(value)}, declared are numbers of {space.dtype}"
    if array.shape != space.shape and not array.size == math.prod(space.shape) == 1:
        return f"{name} has shape {array.shape}, declared is {space.shape}"
    if space.dtype == np.bool_ or space.dtype.kind not in "iu":
        return None
    if array.dtype.kind == "f":
        broken = array[~np.isfinite(array) | (array != np.floor(array))]
        if broken.size:
            return f"{name} holds {broken[0]:g}, declared are whole numbers of {space.dtype}"
    limits: Any = np.iinfo(space.dtype)
    outside = array[(array < limits.min) | (array > limits.max)]
    if outside.size:
        return f"{name} holds {outside[0]:g}, which does not fit into the declared {space.dtype}"
    return None


def _discrete_mismatch(space: gym.spaces.Discrete, value: Any, name: str) -> str | None:
    number = np.asarray(value)
    is_number = number.size == 1 and number.dtype.kind in "biu"
    if is_number and space.start <= int(number.item()) < space.start + space.n:
        return None
    return f"{name} is {short(value)}, declared is {space}"


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {short(value)}" if value is not None else "None"


def short(value: Any) -> str:
    """A value in one line of a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"

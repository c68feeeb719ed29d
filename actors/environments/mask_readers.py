"""Reading the action masks of the copies, each right after the copy's reset or step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from actors.environments.environment import reporting
from actors.environments.masks import MaskReader, mask_source
from common.config_sections import EnvConfig
from common.errors import UserError


def mask_readers(
    config: EnvConfig, members: Sequence[gym.Env[Any, Any]]
) -> list[MaskReader] | None:
    """A reader of each copy's masks; None: the configuration asks for none.

    Args:
        config: of the environment.
        members: the copies in their wrappers; the outermost that has the method is asked.

    Raises:
        UserError: a copy has no such method.
        EnvironmentFailedError: the look-up of the method raised.
    """
    if config.action_mask is None:
        return None
    kind, name = mask_source(config.action_mask)
    if kind == "info":
        return [lambda info: _kept(info.get(name) if isinstance(info, dict) else None)] * len(
            members
        )
    return [_method_reader(config, member, name) for member in members]


def _method_reader(config: EnvConfig, member: gym.Env[Any, Any], name: str) -> MaskReader:
    method: Callable[[], Any] | None
    with reporting(config.id, name):
        try:
            method = member.get_wrapper_attr(name)
        except AttributeError:
            method = None
    if not callable(method):
        raise UserError(
            f"env.action_mask={config.action_mask}: {config.id} has no method {name}(); name "
            'another method ("method:NAME") or an entry of info ("info:KEY")'
        )
    found = method

    def read(_: Any) -> Any:
        with reporting(config.id, name):
            return _kept(found())

    return read


def _kept(mask: Any) -> Any:
    """A copy: the environment, or another copy of it, may write over the mask later."""
    if isinstance(mask, np.ndarray):
        return mask.copy()
    if isinstance(mask, tuple):
        return tuple(map(_kept, mask))
    if mask is None or isinstance(mask, (int, float, np.generic)):
        return mask
    try:
        return np.array(mask)
    except Exception:
        return mask  # not an array, which `ActionMasks` refuses with copy and step

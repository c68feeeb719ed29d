"""Action masks: the actions that are legal in a state, as the environment tells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import gymnasium as gym
import numpy as np

from actors.environments.member import place_of
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from common.types import Array

MaskReader = Callable[[Any], Any]
"""From the info of a copy's newest reset or step to its mask as it is; None: there is none."""

_NAMES = {"info": "action_mask", "method": "action_masks"}
"""Of the entry of an info, or of the method, where `env.action_mask` names none."""


def mask_readers(
    config: EnvConfig, members: Sequence[gym.Env[Any, Any]]
) -> list[MaskReader] | None:
    """A reader of each copy's masks; None: the configuration asks for none.

    Args:
        config: of the environment.
        members: the copies in their wrappers; the outermost that has the method is asked.

    Raises:
        UserError: a copy has no such method.
    """
    if config.action_mask is None:
        return None
    kind, name = _source(config.action_mask)
    if kind == "info":
        return [lambda info: info.get(name) if isinstance(info, dict) else None] * len(members)
    return [_method_reader(config, member, name) for member in members]


def _method_reader(config: EnvConfig, member: gym.Env[Any, Any], name: str) -> MaskReader:
    try:
        method = member.get_wrapper_attr(name)
    except AttributeError:
        method = None
    if not callable(method):
        raise UserError(
            f"env.action_mask={config.action_mask}: {config.id} has no method {name}(); name "
            'another one ("method:NAME"), or an entry of its infos ("info:KEY")'
        )
    return lambda _: method()


def _source(key: str) -> tuple[str, str]:
    """Kind and name of the source that `env.action_mask` stands for."""
    kind, _, name = key.partition(":")
    return kind, name or _NAMES[kind]


class _NotAMaskError(ValueError):
    """A mask that is not valid: the fact, and advice."""

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(fact)
        self.advice = advice


class ActionMasks:
    """Turns what the copies return into rows of true and false, and refuses what is no mask."""

    def __init__(self, config: EnvConfig, parts: tuple[int, ...]) -> None:
        """For an environment whose `env.action_mask` is set.

        Args:
            config: of the environment.
            parts: the number of choices in each part of an action; see `parts_of`.
        """
        assert config.action_mask is not None
        kind, name = _source(config.action_mask)
        self._prefix = f"env.id={config.id}: " + (
            f'info["{name}"]' if kind == "info" else f"{name}()"
        )
        self._parts = parts
        self._actions = math.prod(parts)
        # A mask of each part, end to end, has as many numbers as one of the combinations.
        self._ambiguous = len(parts) > 1 and sum(parts) == self._actions

    def legal(self, given: Sequence[Any], terminated: Array, steps: Array) -> Array:
        """The legal actions of each copy, `[N, A]` bool, at least one in each row.

        In a terminal state no action follows: there the mask may be absent or empty, and all
        actions count as legal.

        Args:
            given: the masks of the copies as they are; None: absent.
            terminated: `[N]` bool, the state is terminal.
            steps: `[N]`, of the episodes, for messages.

        Raises:
            EnvironmentFailedError: a mask is absent, of another shape or type, or leaves no action;
                names copy and step.
        """
        legal = np.ones((len(given), self._actions), bool)
        for copy, mask in enumerate(given):
            try:
                if mask is not None:
                    row = self._row(mask)
                    if row.any():
                        legal[copy] = row
                    elif not terminated[copy]:
                        raise _NotAMaskError(
                            "allows no action in a state that is not terminal",
                            "allow one there, or end the episode with terminated=True",
                        )
                elif not terminated[copy]:
                    raise _NotAMaskError(
                        "is absent",
                        "return it from reset() and from each step(), or set env.action_mask to "
                        "none",
                    )
            except _NotAMaskError as error:
                raise EnvironmentFailedError(
                    f"{self._prefix} {error} ({place_of(copy, int(steps[copy]))}); {error.advice}"
                ) from None
        return legal

    def _row(self, mask: Any) -> Array:
        """The mask of one copy, `[A]` bool."""
        parts = self._parts
        if isinstance(mask, tuple) and len(mask) == len(parts):  # as for Gymnasium's `sample`
            return self._combined(
                [
                    np.ones(size, bool) if part is None else self._truths(part)
                    for part, size in zip(mask, parts, strict=True)
                ]
            )
        truths = self._truths(mask)
        if truths.shape == (self._actions,) and not self._ambiguous:
            return truths
        if len(parts) > 1:
            if truths.shape == parts:
                return truths.reshape(-1)
            if truths.shape == (sum(parts),) and not self._ambiguous:
                return self._combined(np.split(truths, np.cumsum(parts)[:-1]))
        raise self._other_shape(f"is of shape {truths.shape}")

    def _combined(self, truths: list[Array]) -> Array:
        """A combination is legal if each part is."""
        if [part.shape for part in truths] != [(size,) for size in self._parts]:
            raise self._other_shape(f"has parts of shapes {[part.shape for part in truths]}")
        combined: Array = reduce(np.logical_and.outer, truths).reshape(-1)
        return combined

    def _other_shape(self, fact: str) -> _NotAMaskError:
        if len(self._parts) == 1:
            return _NotAMaskError(fact, f"return a vector of {self._actions}, one of each action")
        return _NotAMaskError(
            fact,
            f"return an array of shape {self._parts}, of each combination, or a tuple with a mask "
            "of each part",
        )

    @staticmethod
    def _truths(mask: Any) -> Array:
        """True and false, from those or from 0 and 1."""
        advice = "return a NumPy array of true and false, or of 1 and 0"
        try:
            values = np.asarray(mask)
        except (ValueError, TypeError):
            raise _NotAMaskError(f"is {str(mask)[:40]!r}, no array", advice) from None
        if values.dtype == np.bool_:
            return values
        if values.dtype.kind not in "iuf":
            raise _NotAMaskError(f"is {str(mask)[:40]!r}, of {values.dtype}", advice)
        truths: Array = values == 1
        if not (truths | (values == 0)).all():
            other = values[~truths & (values != 0)].reshape(-1)[0]
            raise _NotAMaskError(f"holds {other}", advice)
        return truths

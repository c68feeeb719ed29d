"""Action masks: the legal actions of a state, as the environment reports them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import gymnasium as gym
import numpy as np

from actors.environments.actions import parts_of
from actors.environments.member import place_of
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError
from common.types import Array

MaskReader = Callable[[Any], Any]
"""Returns a copy's unchecked mask, given the info of its newest reset or step; None: the mask is
absent."""

_NAMES = {"info": "action_mask", "method": "action_masks"}
"""Of the entry of an info, or of the method, where `env.action_mask` names none."""


def mask_source(key: str) -> tuple[str, str]:
    """Kind and name of the source that `env.action_mask` stands for."""
    kind, _, name = key.partition(":")
    return kind, name or _NAMES[kind]


class _NotAMaskError(ValueError):
    """A mask that is not valid: the fact, and advice."""

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(fact)
        self.advice = advice


class ActionMasks:
    """Turns the masks that the copies return into rows of booleans, and refuses invalid ones."""

    def __init__(self, config: EnvConfig, space: gym.Space[Any]) -> None:
        """The masks of an environment with `env.action_mask`.

        Args:
            config: of the environment.
            space: of one copy's actions; `numbered` accepts it.
        """
        assert config.action_mask is not None
        kind, name = mask_source(config.action_mask)
        self._prefix = f"env.id={config.id}: " + (
            f'info["{name}"]' if kind == "info" else f"{name}()"
        )
        self._parts = parts_of(space)
        self._actions = math.prod(self._parts)
        # The masks of all parts, concatenated, have as many numbers as one of the combinations.
        self._ambiguous = len(self._parts) > 1 and sum(self._parts) == self._actions
        # A row for each of two parts has the shape of an array of the combinations.
        self._square = self._parts == (2, 2)
        self._dimensions = len(space.shape or ())
        self._bits = space.shape if isinstance(space, gym.spaces.MultiBinary) else None
        self._all: Array = np.ones(self._actions, bool)

    def legal(self, given: Sequence[Any], terminated: Array, steps: Array) -> Array:
        """The legal actions of each copy, `[N, A]` bool, at least one in each row.

        In a terminal state no action follows: its mask is not read, and all actions count as legal.

        Args:
            given: the masks of the copies, unchecked; None: absent.
            terminated: `[N]` bool, the state is terminal.
            steps: `[N]`, of the episodes, for messages.

        Raises:
            EnvironmentFailedError: a mask is absent, of another shape or type, or leaves no action;
                names copy and step.
        """
        masks = [
            self._all if ended else mask
            for mask, ended in zip(given, terminated.tolist(), strict=True)
        ]
        at_once = self._legal_at_once(masks)
        if at_once is not None:
            return at_once
        legal = np.ones((len(masks), self._actions), bool)
        for copy in np.flatnonzero(~terminated):
            try:
                legal[copy] = self._row(masks[copy])
            except _NotAMaskError as error:
                place = place_of(int(copy), int(steps[copy]))
                raise EnvironmentFailedError(
                    f"{self._prefix} {error} ({place}); {error.advice}"
                ) from None
        return legal

    def _legal_at_once(self, masks: Sequence[Any]) -> Array | None:
        """The legal actions if all masks are valid vectors; None: each needs a look of its own."""
        shape = (self._actions,)
        if self._ambiguous or not all(
            type(mask) is np.ndarray and mask.shape == shape and mask.dtype.kind in "biu"
            for mask in masks
        ):
            return None
        values: Array = np.array(masks)
        legal = values == 1
        if values.dtype != np.bool_ and not (legal | (values == 0)).all():
            return None
        return legal if legal.any(axis=1).all() else None

    def _row(self, mask: Any) -> Array:
        """The mask of one copy, `[A]` bool, at least one of them true."""
        if mask is None:
            raise _NotAMaskError(
                "is absent",
                "return it from reset() and from each step(), or set env.action_mask to none",
            )
        row = self._combinations(mask)
        if not row.any():
            raise _NotAMaskError(
                "allows no action in a state that is not terminal",
                "allow one there, or end the episode with terminated=True",
            )
        return row

    def _combinations(self, mask: Any) -> Array:
        """The mask of one copy, `[A]` bool, from any of its forms."""
        parts = self._parts
        for _ in range(self._dimensions - 1):  # Gymnasium nests the masks of the parts
            if isinstance(mask, tuple) and all(isinstance(row, tuple) for row in mask):
                mask = sum(mask, ())
        if isinstance(mask, tuple) and len(mask) == len(parts):
            return self._combined(
                [
                    np.ones(size, bool) if part is None else _truths(part)
                    for part, size in zip(mask, parts, strict=True)
                ]
            )
        values = _numbers(mask)
        # As `MultiBinary.sample` takes it; 2: both are legal.
        if values.shape == self._bits and values.dtype.kind in "iu":
            bits = values.reshape(-1)
            _truths(np.where(bits == 2, 1, bits))
            return self._combined(list(np.stack([bits != 1, bits != 0], axis=1)))
        truths = _truths(values)
        if truths.shape == (self._actions,) and not self._ambiguous:
            return truths
        if len(parts) > 1:
            if truths.shape == parts and not self._square:
                return truths.reshape(-1)
            if truths.shape == (sum(parts),) and not self._ambiguous:
                return self._combined(np.split(truths, np.cumsum(parts)[:-1]))
        raise self._other_shape(f"is of shape {truths.shape}")

    def _combined(self, truths: list[Array]) -> Array:
        """The legal combinations: those whose parts are all legal."""
        if [part.shape for part in truths] != [(size,) for size in self._parts]:
            raise self._other_shape(f"has parts of shapes {[part.shape for part in truths]}")
        combined: Array = reduce(np.logical_and.outer, truths).reshape(-1)
        return combined

    def _other_shape(self, fact: str) -> _NotAMaskError:
        if len(self._parts) == 1:
            return _NotAMaskError(fact, f"return a vector of {self._actions}, one for each action")
        if self._square:
            return _NotAMaskError(
                fact, "return a tuple with a mask of each part: an array may mean either"
            )
        return _NotAMaskError(
            fact,
            f"return an array of shape {self._parts}, one entry for each combination, or a tuple "
            "with a mask of each part",
        )


_ADVICE = "return a NumPy array of true and false, or of 1 and 0"


def _numbers(mask: Any) -> Array:
    """The array of booleans or numbers that a mask is."""
    try:
        values = np.asarray(mask)
    except Exception:  # such as torch's for a tensor that requires a gradient
        raise _NotAMaskError(f"is {str(mask)[:40]!r}, no array", _ADVICE) from None
    if values.dtype.kind not in "biuf":
        raise _NotAMaskError(f"is {str(mask)[:40]!r}, of type {values.dtype}", _ADVICE)
    return values


def _truths(mask: Any) -> Array:
    """Booleans, from booleans or from 0 and 1."""
    values = _numbers(mask)
    truths: Array = values == 1
    if not (truths | (values == 0)).all():
        other = values[~truths & (values != 0)].reshape(-1)[0]
        raise _NotAMaskError(f"holds {other}", _ADVICE)
    return truths

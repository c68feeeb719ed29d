"""A search space: for each key a distribution, in Ray Tune's words.

"learner.learning_rate" = { loguniform = [1e-5, 1e-3] }
"learner.batch_size" = { choice = [32, 64] }
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.config_errors import in_toml
from common.config_toml import KEYS
from common.suggestion import suggest

NUMBERS = {
    "uniform": 2,
    "quniform": 3,
    "loguniform": 2,
    "qloguniform": 3,
    "randint": 2,
    "qrandint": 3,
    "lograndint": 2,
}
"""Tune's words for numbers, and how many values each takes: from, to, and a step."""
WORDS = ("choice", *NUMBERS)
SCALARS = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as likely."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{{ choice = {in_toml(self.values)} }}"


@dataclass(frozen=True, slots=True)
class Range:
    """A number between two others.

    Attributes:
        word: of Ray Tune.
        values: its arguments: lower and upper limit, for words with a q also the step.
    """

    word: str
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{{ {self.word} = {in_toml(self.values)} }}"


Distribution = Choice | Range


def parse_space(given: Mapping[str, Any]) -> dict[str, Distribution]:
    """The distributions by key.

    Args:
        given: by key, or nested by section, as TOML reads dotted keys.

    Raises:
        ValueError: one line with the key and the accepted values.
    """
    space: dict[str, Distribution] = {}
    for name, value in given.items():
        below = value.items() if isinstance(value, Mapping) and "." not in name else ()
        nested = {f"{name}.{inner}": one for inner, one in below}
        if name in KEYS or not nested or not any(isinstance(v, Mapping) for v in nested.values()):
            nested = {name: value}
        for key, one in nested.items():
            if key == "seed":
                raise ValueError("seed: is set by the key seeds of the study")
            if key not in KEYS:
                raise ValueError(f"unknown key {key}{suggest(key, KEYS)}")
            space[key] = _distribution(key, one)
    return space


def _distribution(key: str, given: Any) -> Distribution:
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ValueError(
            f"{key}={in_toml(given):.200}: must be one word with its values, such as "
            "{ choice = [32, 64] } or { loguniform = [1e-5, 1e-3] }"
        )
    ((word, values),) = given.items()
    if word not in WORDS:
        raise ValueError(
            f"{key}: {word}: unknown distribution{suggest(word, WORDS)} (known: {', '.join(WORDS)})"
        )
    if not isinstance(values, list) or not values:
        raise ValueError(f"{key}: {word}={in_toml(values):.200}: must be a list with a value in it")
    if word == "choice":
        return Choice(tuple(values))
    _check_range(f"{key}: {word}={in_toml(values):.200}", word, values)
    return Range(word, tuple(values))


def _check_range(where: str, word: str, values: list[Any]) -> None:
    wants = "[from, to]" if NUMBERS[word] == 2 else "[from, to, step]"
    is_whole = word.endswith("randint")
    kinds = int if is_whole else (int, float)
    numbers = all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)
    if len(values) != NUMBERS[word] or not numbers or not all(map(math.isfinite, values)):
        kind = "whole numbers" if is_whole else "numbers"
        raise ValueError(f"{where}: must be {wants}, {kind}")
    if not values[0] < values[1]:
        raise ValueError(f"{where}: must be {wants}, the first less than the second")
    if "log" in word and values[0] <= 0:
        raise ValueError(f"{where}: must be {wants} above 0")
    if len(values) > 2 and values[2] <= 0:
        raise ValueError(f"{where}: must be {wants} with a step above 0")


def grid(space: Mapping[str, Distribution]) -> list[dict[str, Any]]:
    """Every combination of the choices, the last key's values fastest."""
    choices = [one.values for one in space.values() if isinstance(one, Choice)]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]

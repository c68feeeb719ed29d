"""Findings of `raydqn cluster check`: one line each: level, key, value and advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import shorten

MAX_KEY_LENGTH = 300
"""Of a key in a finding, in characters."""
MAX_VALUE_LENGTH = 60
"""Of a value in a finding, in characters."""


@dataclass(frozen=True)
class Finding:
    """One fault of a cluster file, or of this machine, which must start the cluster."""

    level: Literal["error", "to do", "warning"]
    key: str  # in the file
    value: object | None  # None: no value to show
    advice: str

    def __str__(self) -> str:
        value = "" if self.value is None else f"={short(self.value)}"
        return f"{self.level}: {shorten(self.key, MAX_KEY_LENGTH)}{value}: {self.advice}"


def error(key: str, value: object | None, advice: str) -> Finding:
    """A fault with which no cluster should be started."""
    return Finding("error", key, value, advice)


def warning(key: str, value: object | None, advice: str) -> Finding:
    """A fault that costs money, speed or safety."""
    return Finding("warning", key, value, advice)


def to_do(key: str, value: object | None, advice: str) -> Finding:
    """A value that the user must fill in before the cluster is started."""
    return Finding("to do", key, value, advice)


def short(value: object) -> str:
    """A value as it stands in a finding."""
    return shorten(value, MAX_VALUE_LENGTH)

"""Types of the arguments: each turns a word of the command line into a value, or refuses it."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from pathlib import Path

from common.errors import UserError

AUTO = "auto"
"""As in `actors.count`: as many actors as the cluster has capacity for."""


def positive(text: str) -> int:
    """A whole number of at least 1; it may have underscores, as in TOML."""
    if not re.fullmatch(r"[0-9]+(_[0-9]+)*", text) or int(text) < 1:
        raise ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def path(text: str) -> Path:
    """A path; `~` is the home folder, also where no shell has expanded it."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~NAME
        raise UserError(f"{text}: there is no user of that name on this machine") from None


def run_folder(text: str) -> Path:
    """The folder of a run."""
    if "://" in text:
        raise UserError(f"{text}: is a URL, not a folder; `raydqn resume {text}` restores it first")
    return path(text)


def actor_count(text: str) -> int | str:
    """A number of actors, or `auto`."""
    if text == AUTO:
        return AUTO
    try:
        return positive(text)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}, or {AUTO}") from None


def seconds(text: str) -> float:
    """A time such as `20s`, `2m` or `500ms`, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text.strip())
    value = float(match[1]) * {"ms": 0.001, "m": 60, "h": 3600}.get(match[2], 1) if match else 0.0
    if not value > 0:
        raise ArgumentTypeError(f"{text!r}: must be a time above 0, such as 20s or 2m")
    return value


def share(text: str) -> float:
    """A number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text!r}: must be a number from 0 to 1")
    return value

"""Errors of the Python API: an option in a message becomes the argument of the same meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from common.config_errors import OVERRIDES
from common.config_sections import is_none
from common.config_toml import KEYS, parse_value
from common.errors import CheckpointError, UserError

ARGUMENTS = {
    "--run-dir": "run_dir",
    "--address": "address",
    "--inline": "inline=True",
    "--ray": "inline=False",
}
"""Arguments of `train` and `resume`, by option."""
_CHECKPOINT = re.compile(r"--checkpoint (\S+)")
_KEY = re.compile(r"--([a-z]+\.[a-z-]+)[ =]([^\s,;)]+)")
_OPTION = re.compile(rf"({'|'.join(ARGUMENTS)})\b(?!-)")


@contextmanager
def options_as_arguments() -> Iterator[None]:
    """Name arguments instead of options in the errors of the block.

    Raises:
        UserError: with the translated message.
    """
    try:
        yield
    except CheckpointError as error:
        raise type(error)(in_python(str(error)), error.file) from error.__cause__
    except UserError as error:
        raise UserError(in_python(str(error))) from error.__cause__


def in_python(message: str) -> str:
    """`--stop.score none` → `overrides["stop"]["score"]=None`, `--run-dir` → `run_dir`."""
    if "raydqn " in message:  # a whole command to type into a terminal
        return message
    message = _CHECKPOINT.sub(r'checkpoint="\1"', message)
    message = _KEY.sub(_override, message)
    return _OPTION.sub(lambda found: ARGUMENTS[found[1]], message)


def _override(found: re.Match[str]) -> str:
    key = found[1].replace("-", "_")
    if key not in KEYS:
        return found[0]
    value = None if is_none(found[2]) else parse_value(found[2])
    return f"{OVERRIDES.key(key)}={value!r}"

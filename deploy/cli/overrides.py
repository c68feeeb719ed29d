"""Configuration keys on the command line.

Keys are options of the same name: `--learner.batch-size 64` sets `batch_size` in the table
`learner`. They are taken out of the command line first; argparse parses the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.errors import UserError

Overrides = dict[str, Any]
"""Values of configuration keys, nested by section."""
TOP_LEVEL_KEYS = ("seed",)
"""Keys without a section. All other keys contain a dot, which no option does."""


def option_of(key: str) -> str:
    """`learner.batch_size` → `--learner.batch-size`."""
    return f"--{key.replace('_', '-')}"


def split_overrides(arguments: Sequence[str]) -> tuple[Overrides, list[str]]:
    """Take configuration keys out of a command line.

    `--section.key VALUE …`, `--section.key=VALUE`, `--seed VALUE`. A list takes several values, or
    one in TOML's notation. A value that is not TOML is a text.

    Args:
        arguments: words of the command line.

    Returns:
        The overrides, nested by section, and the remaining arguments.

    Raises:
        UserError: an unknown key, or a key without a value.
    """
    overrides: Overrides = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, equals, inline = argument.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if argument.startswith("--") and ("." in key or key in TOP_LEVEL_KEYS):
            section, leaf = _place_of(name)
            value = _take_value(name, [inline] if equals else None, queue)
            (overrides.setdefault(section, {}) if section else overrides)[leaf] = value
        else:
            rest.append(argument)
    return overrides, rest


def _place_of(name: str) -> tuple[str, str]:
    """Section and key of an option; an entry of a table keeps its spelling: `kwargs.map_name`."""
    section, _, leaf = name.partition(".")
    if not leaf:
        return "", name.replace("-", "_")
    first, dot, inner = leaf.partition(".")
    return section.replace("-", "_"), first.replace("-", "_") + dot + inner


def _take_value(name: str, given: list[str] | None, queue: list[str]) -> Any:
    """The value of a key: `given` behind `=`, else from the front of `queue`."""
    # The configuration takes longer to import than the rest of the command line.
    from common.config_sections import is_none
    from common.config_toml import KEYS, is_list, is_table, parse_value
    from common.suggestion import suggest

    key = name.replace("-", "_")
    table = ".".join(key.split(".")[:2])
    if key.count(".") > 1 and table in KEYS and is_table(table):
        key = table
    if key not in KEYS:
        raise UserError(f"--{name}: unknown key{suggest(key, KEYS, shown=option_of)}")
    several = is_list(key)
    values = given or []
    while given is None and queue and not queue[0].startswith("--"):
        # A list of numbers ends at the first other word; one of words has a single one, or TOML.
        if values and not (several and isinstance(parse_value(queue[0]), (int, float))):
            break
        values.append(queue.pop(0))
    if not values:
        raise UserError(f"--{name}: needs a value")
    parsed = [parse_value(value) for value in values]
    if not several or (len(parsed) == 1 and (isinstance(parsed[0], list) or is_none(parsed[0]))):
        return parsed[0]
    return parsed

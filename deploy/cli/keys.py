"""Configuration keys in the help of a command, by group, with default and meaning."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from enum import Enum
from fnmatch import fnmatch
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from deploy.cli.overrides import option_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

COMMON_KEYS = (
    *("seed", "env.id", "actors.count", "actors.envs", "replay.capacity"),
    *("learner.batch_size", "learner.learning_rate", "evaluation.*", "stop.*", "checkpoint.*"),
)
"""Patterns of the keys that `--help` lists; `--help-all` lists all keys."""
NAME_WIDTH = 36


class Keys(Enum):
    """Which configuration keys are options of a command."""

    NONE = "none"
    ALL = "all"
    RUN = "all, with the values of a run as defaults"
    LIVE = "those that can be changed during a run"


def keys_of(keys: Keys) -> list[str]:
    """The keys that are options of a command, as `section.name`, by group."""
    if keys is Keys.NONE:
        return []
    from common.config_toml import KEYS

    if keys in (Keys.ALL, Keys.RUN):
        return list(KEYS)
    from deploy.control.control_file import LIVE_KEYS

    return [key for key in KEYS if key in LIVE_KEYS]


def choices_of(key: str) -> list[str]:
    """The values that a key takes by name, if it has such, else nothing."""
    from common.config_toml import KEYS

    annotation = KEYS[key].annotation
    if annotation is bool:
        return ["true", "false"]
    is_union = get_origin(annotation) in (Union, UnionType)
    several = get_args(annotation) if is_union else (annotation,)
    return [str(value) for one in several if get_origin(one) is Literal for value in get_args(one)]


def help_on_keys(keys: Keys, everything: bool) -> str:
    """The part of a command's help that lists its configuration keys.

    Args:
        keys: which keys are options of the command.
        everything: all of these, else the common ones.

    Returns:
        Text as wide as the terminal, empty for a command without keys.
    """
    names = keys_of(keys)
    if not names:
        return ""
    if keys is Keys.LIVE:
        heading = (
            "Configuration keys that can be changed during a run. The run records new values in "
            "its config.toml, so that a resume keeps them."
        )
    else:
        common = [k for k in names if any(fnmatch(k, pattern) for pattern in COMMON_KEYS)]
        which = (
            "Configuration keys" if everything else "Common configuration keys (all: --help-all)"
        )
        names = names if everything else common
        defaults = (
            "Defaults are the values in the run's config.toml; the run records new values there."
            if keys is Keys.RUN
            else "Defaults are those without a preset; `raydqn config PRESET` prints the values "
            "with a preset."
        )
        heading = f"{which}. {defaults}"
    return "\n" + _formatted(names, heading, with_defaults=keys is Keys.ALL)


def _formatted(names: Collection[str], heading: str, with_defaults: bool) -> str:
    """A heading and groups of options, laid out by argparse."""
    from common.config import Config
    from common.config_toml import KEYS

    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        add_help=False,
        description=heading,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=NAME_WIDTH),
    )
    defaults = Config().model_dump(mode="json")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key in names:
        section, _, name = key.rpartition(".")
        if section not in groups:
            groups[section] = parser.add_argument_group(_title(section))
        info = KEYS[key]
        default = _shown((defaults[section] if section else defaults)[name])
        text = f"{info.description} (default: {default})" if with_defaults else info.description
        groups[section].add_argument(
            option_of(key), metavar=_metavar(key, info), help=str(text).replace("%", "%%")
        )
    return parser.format_help()


def _title(section: str) -> str:
    """`replay – the replay memory`."""
    from common.config import Config

    if not section:
        return "the run"
    model = Config.model_fields[section].annotation
    text = str(model.__doc__ if model is not None else "").partition("\n")[0].rstrip(".")
    return f"{section} – {text[:1].lower()}{text[1:]}"


def _metavar(key: str, info: FieldInfo) -> str:
    """The kind of value a key takes."""
    from common.config_toml import is_list

    if choices := choices_of(key):
        return "|".join(choices)
    kinds = {kind.__name__ for kind in _types_in(info.annotation)}
    if is_list(key):
        return "N …" if "int" in kinds else "X …"
    if "str" in kinds:
        return "TEXT"
    return "TABLE" if "dict" in kinds else "X" if "float" in kinds else "N"


def _types_in(annotation: Any) -> set[type]:
    """The plain types in an annotation: `tuple[int, ...] | None` → int, NoneType."""
    if get_origin(annotation) is dict:
        return {dict}
    if not get_args(annotation):
        return {annotation} if isinstance(annotation, type) else set()
    return {kind for inner in get_args(annotation) for kind in _types_in(inner)}


def _shown(value: Any) -> str:
    """A default as it is written on the command line."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

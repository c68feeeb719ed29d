"""The configuration as text: keys, TOML, values of the command line, and messages about them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import tomlkit
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common.config import Config
from common.config_errors import COMMAND_LINE, Spelling, first_mistake, holds
from common.config_sections import NONE, Section
from common.errors import UserError


def known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """The keys of a configuration as `section.name`, with type, default and description."""
    keys: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys |= known_keys(info.annotation, f"{prefix}{name}.")
        else:
            keys[prefix + name] = info
    return keys


KEYS = known_keys(Config)
"""Every key as `section.name`, with its default and description."""


def is_table(key: str) -> bool:
    """Whether the value of `key` is a table with keys of the user's."""
    return "dict" in str(KEYS[key].annotation)


def is_list(key: str) -> bool:
    """Whether `key` takes several values."""
    return "tuple" in str(KEYS[key].annotation)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` in their places; both nested by section."""
    result = dict(base)
    for name, value in over.items():
        name, _, inner = name.partition(".")  # one entry of a table without a model
        if inner:
            value = {inner: value}
        if (inner or name in Config.model_fields) and isinstance(value, Mapping):
            below = result.get(name)
            value = merge(below if isinstance(below, Mapping) else {}, value)
        result[name] = value
    return result


def parse_value(text: str) -> Any:
    """A value from the command line: TOML or JSON, else the text itself.

    Whether "none" is a value or means None depends on the key; its section decides.
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    if text.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    return text


def build(
    values: Mapping[str, Any],
    source: str = "configuration",
    overrides: Mapping[str, Any] | None = None,
    spelling: Spelling = COMMAND_LINE,
) -> Config:
    """A validated configuration.

    Args:
        values: nested by section.
        source: named in errors.
        overrides: those of the values that the user gave elsewhere, nested by section.
        spelling: of the overrides, in errors about them.

    Raises:
        UserError: one line with the key, its value and the accepted values.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        mistake = first_mistake(error, values, KEYS)
        # Where keys do not fit each other, those that the user has just given are to blame.
        if overrides and (not mistake.place or holds(overrides, mistake.place)):
            raise UserError(mistake.message(spelling, overrides)) from None
        raise UserError(mistake.message(Spelling(source))) from None


def with_actors(config: Config, count: int) -> Config:
    """The configuration with `count` actors, which settles `"auto"`."""
    return build(merge(config.model_dump(), {"actors": {"count": count}}), f"actors.count={count}")


def one_line(error: ValidationError) -> str:
    """The first mistake in one line: the key, its value and the accepted values."""
    return first_mistake(error, {}, KEYS).message(Spelling(""))


def load_toml(path: Path) -> dict[str, Any]:
    """The values in a TOML file.

    Raises:
        UserError: the file is missing, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file ({error})") from None


def to_toml(config: Config, comments: bool = True) -> str:
    """The whole configuration as TOML that `load_toml` and `build` turn back into `config`."""
    plain = config.model_dump(mode="json")
    top: list[str] = []  # keys without a section come first, or they would belong to one
    tables: list[str] = []
    for name, info in Config.model_fields.items():
        if not isinstance(plain[name], dict):
            top.append(_line(name, plain[name], info.description if comments else None))
            continue
        section = cast(type[Section], info.annotation)
        lines = [f"[{name}]\n"]
        if comments and section.__doc__:
            lines.append(f"# {section.__doc__.splitlines()[0]}\n")
        for key, value in plain[name].items():
            description = section.model_fields[key].description if comments else None
            # Never left out: over a preset, the preset's value would take its place.
            lines.append(_line(key, NONE if value is None else value, description))
        tables.append("".join(lines))
    return "\n".join(["".join(top), *tables])


def _line(key: str, value: Any, comment: str | None) -> str:
    return f"{key} = {_as_toml(value)}{f' # {comment}' if comment else ''}\n"


def _as_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, dict):
        item: Any = tomlkit.inline_table()
        item.update(value)
    else:
        item = tomlkit.item(value)
    text: str = item.as_string()
    return text

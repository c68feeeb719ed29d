"""Mistakes in a configuration, in words: the key as the user wrote it, its value, what it must be.

pydantic finds the mistakes; none of its own sentences reaches a user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from common.config_network import Kind
from common.suggestion import closest

_WHOLE, _NUMBER, _BOOL, _TEXT, _TABLE = (
    *("must be a whole number", "must be a number", "must be true or false"),
    *("must be text", "must be a {table}"),
)
WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _BOOL),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), _TEXT),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _TABLE),
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "missing": "is missing",
    "invalid_key": "keys must be text",
}
"""What a value must be, by pydantic's kind of error."""
WORDS_OF_KEYS = {
    "network.hidden": "must be a list of whole numbers",
    "network.kind": f"must be {', '.join(get_args(Kind))} or package.module:Class",
    "env.crop": "must be a list of four numbers: left, top, right, bottom",
    "env.wrappers": 'must be a list of "module:Class"',
    "env.kwargs": "must be a {table} with text as keys",
}
"""Likewise, of keys that hold several values."""
OTHER_KIND = "is not valid"
MAX_VALUE = 200
"""Longest value that is shown, in characters."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How messages name a key: `SOURCE: learner.gamma`, or `overrides["learner"]["gamma"]`.

    Attributes:
        source: of the values: a file, `command line`, or the argument of a function.
        python: `source` is an argument, a dict by section.
    """

    source: str
    python: bool = False

    def key(self, key: str) -> str:
        """A key, as the user would write it there."""
        if not self.python:
            return key
        return self.source + "".join(f'["{part}"]' for part in key.split(".") if part)

    def value(self, value: Any) -> str:
        """A value, as the user would write it there."""
        if self.python:
            return f"{value!r:.{MAX_VALUE}}"
        if value is None or isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            bare = value.isprintable() and value.split() == [value]
            return value[:MAX_VALUE] if bare else f"{value!r:.{MAX_VALUE}}"
        return in_toml(value)[:MAX_VALUE]


def in_toml(value: Any) -> str:
    """A value as a TOML file has it: `{ a = 1, b = ["x", true] }`; None, which TOML lacks: none."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inner = (f"{toml_key(str(key))} = {in_toml(one)}" for key, one in value.items())
        return f"{{ {', '.join(inner)} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(in_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def toml_key(name: str) -> str:
    """A part of a key as a TOML file has it: quoted, unless it is letters, digits, `_` and `-`."""
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if bare else json.dumps(name, ensure_ascii=False)


COMMAND_LINE = Spelling("command line")
OVERRIDES = Spelling("overrides", python=True)


@dataclass(frozen=True, slots=True)
class Mistake:
    """The first mistake in a configuration.

    Attributes:
        place: where it was found: `section.name`; a section, or empty, whose keys do not fit each
            other.
        key: the key that is named: `section.name`, a section, or empty if `words` names it.
        words: what the value must be, with the value where it is shown.
        value: of the key, in a tuple; empty: not shown, or in `words` already.
        unknown: there is no such key.
        near: the key that is probably meant; None: there is none.
    """

    place: str
    key: str
    words: str
    value: tuple[Any, ...] = ()
    unknown: bool = False
    near: str | None = None

    def message(self, spelling: Spelling, given: Mapping[str, Any] | None = None) -> str:
        """The mistake in one line.

        Args:
            spelling: of the key.
            given: the values that the user gave in that spelling; None: all.
        """
        near = "" if self.near is None else f"; did you mean {spelling.key(self.near)}?"
        if spelling.python and self.key and (given is None or holds(given, self.key)):
            head = spelling.key(self.key)
            if self.unknown:
                return f"{head}: unknown key{near}"
        elif self.unknown:
            return ": ".join(filter(None, (spelling.source, f"unknown key {self.key}{near}")))
        else:
            head = ": ".join(filter(None, (spelling.source, self.key)))
        words = self.words.replace("{table}", "dict" if spelling.python else "table")
        if self.value:
            return f"{head}={spelling.value(self.value[0])}: {words}"
        return head + words


def first_mistake(
    error: ValidationError, values: Mapping[str, Any], keys: Collection[str]
) -> Mistake:
    """The first mistake that pydantic has found.

    Args:
        error: pydantic's.
        values: that were validated, nested by section.
        keys: all keys that there are, as `section.name`.
    """
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    parts = [str(part) for part in first["loc"]]
    key = ".".join(parts[: next((n for n in (1, 2) if ".".join(parts[:n]) in keys), len(parts))])
    if kind == "extra_forbidden":
        sections = {key.partition(".")[0] for key in keys}
        return Mistake(key, key, "", unknown=True, near=closest(key, sorted({*keys, *sections})))
    value = _value(values, key, first["input"])
    rest = parts[key.count(".") + 1 :] if key in keys else []
    if rest and kind != "invalid_key" and isinstance(value, Mapping) and rest[0] in value:
        key, value = f"{key}.{rest[0]}", value[rest[0]]  # one table of a table of tables
    if kind == "value_error":
        return _own(key, str(context["error"]), value, keys)
    words = WORDS_OF_KEYS.get(key) or WORDS.get(kind, OTHER_KIND)
    if kind == "invalid_key" or (kind == "missing" and key not in keys):
        return Mistake(key, key, f": {words}")
    shown = {name: _shown(limit) for name, limit in context.items()}
    for name, limit in shown.items():
        words = words.replace(f"{{{name}}}", limit)
    return Mistake(key, key, words, (value,))


def holds(values: Mapping[str, Any], key: str) -> bool:
    """Whether nested values set a key, or something in a section."""
    missing = object()
    return _value(values, key, missing) is not missing


def _own(key: str, text: str, value: Any, keys: Collection[str]) -> Mistake:
    """A mistake found by a validator of ours: `must be …`, or `name=value: must be …`."""
    if key in keys:
        return Mistake(key, key, text, (value,))
    named = re.match(r"(\w+)(=.*)", text, re.DOTALL)
    if key and named is not None:  # of a section: the text begins with one of its names
        return Mistake(key, f"{key}.{named[1]}", named[2])
    return Mistake(key, key, f": {text}")


def _value(values: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    """The value of a key in nested values."""
    below: Any = values
    for part in key.split("."):
        if not isinstance(below, Mapping) or part not in below:
            return otherwise
        below = below[part]
    return below


def _shown(limit: Any) -> str:
    """A bound, or pydantic's list of words, without quotation marks."""
    return f"{limit:g}" if isinstance(limit, float) else str(limit).replace("'", "")

"""Tables of the fields that a cloud or KubeRay accepts, and what a file has beside them.

`.ci/cluster-tables` writes the tables, each from one version of its source, which the table names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from common.suggestion import suggest
from deploy.provisioning.findings import Finding, error, short, warning

MAX_MISFITS = 100
"""Of one value: more lines are of no help, and each takes time."""
TABLES = Path(__file__).parent / "tables"
_NAMES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "integer or string": (int, float, str),
}
_EXPECTED = {
    "string": "must be a text: put it in quotes",
    "integer": "must be a whole number, without quotes",
    "number": "must be a number, without quotes",
    "boolean": "must be true or false, without quotes",
    "integer or string": "must be a number or a text",
}


@dataclass(frozen=True)
class FieldTable:
    """Fields by name, nested, with the kind of value of each."""

    source: str  # with its version
    roots: Mapping[str, int]
    shapes: Sequence[Any]
    regions: Sequence[str] = ()

    def fields(self, root: str) -> list[str]:
        """Names of the outermost fields."""
        return list(self.shapes[self.roots[root]]["fields"])


@dataclass(frozen=True)
class Misfit:
    """A place in a file that does not fit the table."""

    place: str  # below the value that was compared; empty: that value itself
    value: object | None  # None: no value to show
    advice: str
    doubtful: bool = False  # a value that is newer than the table would be reported, too

    def finding(self, place: str) -> Finding:
        """A finding, for a value that is at `place` of the file; a doubtful one is a warning."""
        key = f"{place}.{self.place}" if self.place else place
        return (warning if self.doubtful else error)(key, self.value, self.advice)


AMOUNTS = ("resources.limits", "resources.requests")
QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
"""Of Kubernetes."""
A_QUANTITY = "must be a quantity of Kubernetes, such as 500m, 16 or 32Gi"


def _may_be_quantity(value: Any) -> bool:
    """Whether a value is a quantity, or is reported for its type."""
    is_amount = isinstance(value, int | float | str) and not isinstance(value, bool)
    return not is_amount or QUANTITY.fullmatch(str(value).strip()) is not None


@cache
def field_table(name: str) -> FieldTable:
    """One of the tables: `aws`, `gcp`, `kuberay`."""
    return FieldTable(**json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8")))


def misfits(
    table: FieldTable, root: str, value: Any, more: Sequence[str] = (), nulls: bool = True
) -> Iterator[Misfit]:
    """Everything in a value that the table does not know.

    Args:
        table: of the fields.
        root: name of the shape of `value` in the table.
        value: of the file.
        more: names of outermost fields beside those of the table, of any value.
        nulls: whether a field may be empty.
    """
    yield from islice(_misfits(_Walk(table, nulls), root, value, more), MAX_MISFITS)


def _misfits(walk: _Walk, root: str, value: Any, more: Sequence[str]) -> Iterator[Misfit]:
    table = walk.table
    shape = table.shapes[table.roots[root]]
    if not isinstance(value, Mapping):
        yield from walk.compare(shape, value, "")
        return
    value = {name: inner for name, inner in value.items() if name not in more}
    yield from walk.compare({**shape, "also": more}, value, "")


@dataclass(frozen=True)
class _Walk:
    table: FieldTable
    nulls: bool

    def compare(self, shape: Any, value: Any, place: str) -> Iterator[Misfit]:
        """Misfits of a value with its shape (`.ci/cluster-tables` lists the shapes)."""
        if value is None:
            if not self.nulls and place:
                yield Misfit(place, None, "is empty: put a value, or remove the key")
        elif isinstance(shape, str):
            yield from self._single(shape, value, place)
        elif "fields" in shape:
            yield from self._fields(shape, value, place)
        elif "list" in shape:
            if isinstance(value, list):
                for index, inner in enumerate(value):
                    yield from self._inner(shape["list"], inner, place, index)
            else:
                yield Misfit(place, value, "must be a list: begin each entry with a dash")
        elif "map" in shape:
            if isinstance(value, Mapping):
                for name, inner in value.items():
                    yield from self._inner(shape["map"], inner, place, name)
                    if place.endswith(AMOUNTS) and not _may_be_quantity(inner):
                        yield Misfit(f"{place}.{name}", inner, A_QUANTITY)
            else:
                yield Misfit(place, value, "must have keys")
        else:
            yield from self._one_of(shape["values"], value, place)

    def _inner(self, shape: int, value: Any, place: str, name: object) -> Iterator[Misfit]:
        inner = f"{place}.{name}" if place else str(name)
        yield from self.compare(self.table.shapes[shape], value, inner)

    def _fields(self, shape: Any, value: Any, place: str) -> Iterator[Misfit]:
        if isinstance(value, list) and self.table.source.startswith("google"):
            # Google's interface accepts it, as Ray's own examples have it.
            for index, inner in enumerate(value):
                yield from self._fields(shape, inner, f"{place}.{index}")
            return
        if not isinstance(value, Mapping):
            yield Misfit(place, value, "must have keys")
            return
        known = shape["fields"]
        for name, inner in value.items():
            if name in known:
                yield from self._inner(known[name], inner, place, name)
            else:
                near = suggest(name, [*known, *shape.get("also", ())])
                advice = f"unknown key ({self.table.source}){near or ': remove it'}"
                yield Misfit(f"{place}.{name}" if place else name, None, advice)
        for name in shape.get("required", ()):
            if value.get(name) is None:
                yield Misfit(f"{place}.{name}" if place else name, None, "is missing: must be set")

    def _single(self, name: str, value: Any, place: str) -> Iterator[Misfit]:
        kinds = _NAMES.get(name)
        if kinds is None:  # any value
            return
        right = isinstance(value, kinds) and (kinds == (bool,) or not isinstance(value, bool))
        if name == "integer" and isinstance(value, float):
            right = value.is_integer()
        if not right:
            yield Misfit(place, short(value), _EXPECTED[name])

    def _one_of(self, values: Sequence[str], value: Any, place: str) -> Iterator[Misfit]:
        if not isinstance(value, str):
            yield Misfit(place, short(value), _EXPECTED["string"])
        elif value not in values:
            shown = f"must be one of {', '.join(name or repr(name) for name in values)}"
            if len(values) > 8:
                shown = "unknown value"
            advice = f"{shown} ({self.table.source}){suggest(value, values)}"
            yield Misfit(place, value, advice, doubtful=True)

"""Reading a YAML file of any origin, within bounds of size, depth, number of values and time."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, first_line

MAX_BYTES = 2**20
MAX_VALUES = 20_000
"""Of a file, as it is written."""
MAX_EXPANDED = 200_000
"""Of a file, with each alias replaced by what it refers to."""
MAX_DEPTH = 100
MAX_SECONDS = 10.0
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MUST_BE = "must be a file with a cluster's description"


@dataclass(frozen=True)
class DuplicateKey:
    """A key that one mapping has twice: YAML readers take the last value, or refuse the file."""

    name: str
    lines: tuple[int, int]  # of the first and of the later one, from 1


def read_yaml(path: Path) -> tuple[list[Any], list[DuplicateKey]]:
    """The documents of a YAML file as values that JSON has, and the keys that are there twice.

    Raises:
        UserError: it cannot be read, or is not what a cluster file may be.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        try:
            documents = list(iter(loader.get_data, _NO_MORE))
        finally:
            loader.dispose()
        # As Ray sends it to the head: keys become text, and values that JSON lacks are found.
        return json.loads(json.dumps(documents)), loader.duplicates
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not a YAML file ({_where(error)})") from None
    except (ValueError, TypeError, RecursionError) as error:
        if "integer string conversion" in str(error):
            raise UserError(
                f"{path}: not a cluster file (a number of thousands of digits: put it in quotes)"
            ) from None
        raise UserError(f"{path}: not a cluster file ({first_line(error)})") from None


def _text(path: Path) -> str:
    """The text of a regular file of at most `MAX_BYTES`."""
    try:
        # A pipe would wait for its writer: O_NONBLOCK opens it at once.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
            if kind != stat.S_IFREG:
                raise UserError(f"{path}: is {KINDS.get(kind, 'no file')}: {_MUST_BE}")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        # A folder or a socket cannot be opened as a file.
        what = KINDS.get(_kind(path))
        why = f"is {what}: {_MUST_BE}" if what else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {why}") from None
    if len(content) > MAX_BYTES:
        raise UserError(
            f"{path}: has more than {MAX_BYTES // 2**20} MiB: must be a cluster file, which has a "
            "few hundred lines"
        )
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{path}: line {line} holds a NUL byte: must be a text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise UserError(
            f"{path}: line {line} holds byte 0x{byte:02x}, which is not UTF-8: save it as UTF-8"
        ) from None


def _kind(path: Path) -> int:
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return 0


_NO_MORE = object()


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # yaml ships no types
    """PyYAML's safe loader, with bounds, that notes keys that are there twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[DuplicateKey] = []
        self._depth = self._values = self._expanded = 0
        self._end = time.monotonic() + MAX_SECONDS

    def get_data(self) -> Any:
        """The next document; `_NO_MORE` after the last."""
        if not self.check_node():
            return _NO_MORE
        node = self.get_node()
        self._expanded += _count(node, MAX_EXPANDED - self._expanded)
        self.duplicates += _duplicates(node)
        return self.construct_document(node)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value of the file, within its bounds."""
        mark = self.peek_event().start_mark
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"line {mark.line + 1}: nested more than {MAX_DEPTH} deep")
        if self._values > MAX_VALUES:
            raise ValueError(f"line {mark.line + 1}: more than {MAX_VALUES:,} values")
        if time.monotonic() > self._end:
            raise ValueError(f"line {mark.line + 1}: reading took more than {MAX_SECONDS:g} s")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _count(node: Any, limit: int) -> int:
    """The number of values after each alias has become a copy of what it refers to.

    A long text counts as several values.

    Raises:
        ValueError: there are too many, or an alias refers to a value that holds the alias.
    """
    counted: dict[int, int] = {}

    def count(node: Any) -> int:
        known = counted.get(id(node))
        if known is not None:
            if not known:  # is being counted
                raise ValueError("Circular reference detected")
            return known
        counted[id(node)] = 0
        text = len(node.value) // 50 if isinstance(node, yaml.ScalarNode) else 0
        number = 1 + text + sum(count(child) for child in _children(node))
        if number > limit:
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: with its aliases more than {MAX_EXPANDED:,} values")
        counted[id(node)] = number
        return number

    return count(node)


def _duplicates(node: Any) -> Iterator[DuplicateKey]:
    """Keys that are twice in one mapping, by the line of the later one."""
    seen: set[int] = set()
    found = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = key.value, key.start_mark.line + 1
            if name in lines:
                found.append(DuplicateKey(name, (lines[name], line)))
            lines.setdefault(name, line)
        waiting += _children(node)
    yield from sorted(found, key=lambda one: one.lines)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or first_line(error)
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)

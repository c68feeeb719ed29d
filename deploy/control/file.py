"""Changing a run while it goes on.

A command writes the new values into `control.toml` in the run folder. The supervisor looks there
every `LOOK_EVERY_S`, takes them over, records them in `config.toml`, and removes the file. The
folder is all that a command needs to know of a run: no port, no address, the same in both modes.
Where a command is given on another machine of a cluster, the wish goes by the run's board
(`deploy.control.service`).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomlkit

from common.config import NONE, Config, build, load_toml, merge
from common.errors import UserError
from common.storage import write_atomically
from deploy.runs.folder import CONTROL, REPLY, RunFolder

LIVE_KEYS = (
    *("learner.samples_per_insert", "learner.samples_per_insert_error"),
    *("checkpoint.every_s", "checkpoint.every_learner_steps"),
    "actors.count",
)
"""Keys that can be changed while a run goes on."""
LOOK_EVERY_S = 1.0
"""How often a run looks for changes, at the most."""
TAKEN_WITHIN_S = 10.0
"""How long a command waits for the run to take its change: one piece of work, and a look."""
MAX_BYTES = 1 << 16
"""A larger file is none of ours."""
POLL_S = 0.05

Mark = tuple[int, int]
"""Of a wish: inode and time of writing of its file. No other that comes in time has the same."""

APPLIED = "applied: "
"""How the answer to a wish begins that was granted."""


def option(key: str) -> str:
    """How a key is spelt on the command line."""
    return f"--{key.replace('_', '-')}"


def keys_of(changes: Mapping[str, Any]) -> list[str]:
    """The keys of values that are nested by section, as `section.name`."""
    return [
        f"{name}.{leaf}" if isinstance(below, Mapping) else name
        for name, below in changes.items()
        for leaf in (below if isinstance(below, Mapping) else [""])
    ]


def changed(config: Config, changes: Mapping[str, Any], source: str) -> Config:
    """The configuration of a run with changes, checked as a whole.

    Args:
        config: of the run.
        changes: values nested by section.
        source: named in errors.

    Raises:
        UserError: a key that cannot be changed now, or a value that does not fit the others.
    """
    keys = keys_of(changes)
    for key in keys:
        if key not in LIVE_KEYS:
            raise UserError(
                f"{source}: {key}: cannot be changed while a run goes on; these can: "
                + ", ".join(LIVE_KEYS)
            )
    if not keys:
        raise UserError(f"{source}: names no key to change; these can be: {', '.join(LIVE_KEYS)}")
    return build(merge(config.model_dump(), changes), source)


def describe(old: Config, new: Config, keys: Iterable[str]) -> str:
    """`learner.samples_per_insert 8 → 4`."""
    return ", ".join(f"{key} {_shown(old, key)} → {_shown(new, key)}" for key in keys)


def _get(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _plain(config: Config, key: str) -> Any:
    """A value as it stands in TOML."""
    section, _, name = key.partition(".")
    value = config.model_dump(mode="json")[section][name]
    return NONE if value is None else value


def _shown(config: Config, key: str) -> str:
    value = _plain(config, key)
    return f"{value:g}" if isinstance(value, float) else str(value)


class ControlFile:
    """The run's end of the channel."""

    def __init__(self, folder: Path) -> None:
        """Of the run in `folder`."""
        self._path = folder / CONTROL
        # Of the last one that was read: one that cannot be removed is not taken again and again.
        self._seen: Mark | None = None

    def read(self) -> dict[str, Any] | None:
        """Changes that are asked for, nested by section; None: none, or these were read before.

        Raises:
            UserError: not a file that a command wrote.
        """
        try:
            status = self._path.lstat()
        except OSError:
            return None
        mark = _mark(status)
        if mark == self._seen:
            return None
        self._seen = mark
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise UserError(f"{self._path}: must be a file of at most {MAX_BYTES} bytes")
        try:
            return load_toml(self._path)
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise UserError(f"{self._path}: not a TOML file ({error})") from None

    def answer(self, text: str) -> None:
        """What became of it; before the file is removed. It begins with the mark of the wish."""
        with suppress(OSError):  # whoever asked sees by config.toml what the run goes on with
            write_atomically(self._path.with_name(REPLY), f"{self._seen}\n{text}".encode())

    def remove(self) -> None:
        """Take away what was read; a newer one stays."""
        with suppress(OSError):  # gone already, or not ours to remove
            if _mark(self._path.lstat()) == self._seen:
                self._path.unlink()


def post(folder: Path, document: Mapping[str, Any]) -> Mark | None:
    """Put a wish where the run looks, unless one waits there that the run has not taken yet.

    Several commands may do so at once: none takes another's place.

    Args:
        folder: of the run.
        document: what is wished, nested by section.

    Returns:
        The wish's mark; None: another one waits there.

    Raises:
        OSError: it cannot be written.
    """
    path, data = folder / CONTROL, tomlkit.dumps(document).encode()
    own = folder / f".{CONTROL}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        write_atomically(own, data)  # the run must never see half of it
        try:
            os.link(own, path)
        except FileExistsError:
            return None
        except OSError:  # a file system without links
            if path.exists():
                return None
            own.replace(path)
            return _mark(path.lstat())
        return _mark(own.lstat())
    finally:
        own.unlink(missing_ok=True)


def _mark(status: os.stat_result) -> Mark:
    return status.st_ino, status.st_mtime_ns


def _waits(path: Path, mark: Mark) -> bool:
    """Whether the wish of that mark was not taken yet."""
    try:
        return _mark(path.lstat()) == mark
    except OSError:
        return False


def discard(folder: Path) -> None:
    """Take away what nobody took: it was meant for a run that has ended."""
    for name in (CONTROL, REPLY):
        with suppress(OSError):
            (folder / name).unlink()


def ask(folder: RunFolder, new: Config, keys: Collection[str], wait_s: float) -> str | None:
    """Ask the run in `folder` to go on with other values, and see whether it does.

    Args:
        folder: of the run.
        new: its configuration with the changes.
        keys: which of its keys are to change.
        wait_s: how long it has to take them; after that the request stays, until it looks.

    Returns:
        What became of it, `APPLIED` in front if it was granted; None: nothing yet.

    Raises:
        UserError: no run is going on, or the request cannot be written.
    """
    if not folder.is_running():
        raise UserError(
            f"{folder.path}: no run is going on there; `raydqn resume` takes the same keys"
        )
    document, path = wish_of(new, keys), folder.path / CONTROL
    deadline = time.monotonic() + wait_s
    while (mark := _post(folder.path, document)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"{path}: another command's wish waits there still; try again later")
        time.sleep(POLL_S)
    while _waits(path, mark) and folder.is_running() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if _waits(path, mark):
        if folder.is_running():
            return None
        discard(folder.path)
    return _answer(folder.path, mark) or "the run has ended; nothing was changed"


def _post(folder: Path, document: Mapping[str, Any]) -> Mark | None:
    try:
        return post(folder, document)
    except OSError as error:
        raise UserError(f"{folder / CONTROL}: cannot be written ({error.strerror})") from None


def _answer(folder: Path, mark: Mark) -> str | None:
    """What the run said to the wish of that mark, and to no other."""
    try:
        first, _, answer = (folder / REPLY).read_text(encoding="utf-8").partition("\n")
    except OSError:
        return None
    return answer if first == str(mark) else None


def wish_of(config: Config, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Values of `config`, nested by section, as they travel to a run."""
    document: dict[str, dict[str, Any]] = {}
    for key in keys:
        section, _, name = key.partition(".")
        document.setdefault(section, {})[name] = _plain(config, key)
    return document

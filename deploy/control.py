"""Changing a run while it goes on.

A command writes the new values into `control.toml` in the run folder. The supervisor looks there
every `LOOK_EVERY_S`, takes them over, records them in `config.toml`, and removes the file. The
folder is all that a command needs to know of a run: no port, no address, the same in both modes.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomlkit

from common.config import NONE, Config, build, load_toml, merge
from common.storage import write_atomically
from common.types import UserError
from deploy.metrics import ANSWER, CONTROL, RunFolder

LIVE_KEYS = (
    *("learner.samples_per_insert", "learner.samples_per_insert_error"),
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
        # The last one that was read (inode, time of writing): one that cannot be removed is not
        # taken again and again.
        self._seen: tuple[int, int] | None = None

    def read(self) -> dict[str, Any] | None:
        """Changes that are asked for, nested by section; None: none, or these were read before.

        Raises:
            UserError: not a file that a command wrote.
        """
        try:
            status = self._path.lstat()
        except OSError:
            return None
        signature = (status.st_ino, status.st_mtime_ns)
        if signature == self._seen:
            return None
        self._seen = signature
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise UserError(f"{self._path}: must be a file of at most {MAX_BYTES} bytes")
        try:
            return load_toml(self._path)
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise UserError(f"{self._path}: not a TOML file ({error})") from None

    def answer(self, text: str) -> None:
        """What became of it; before the file is removed."""
        with suppress(OSError):  # whoever asked sees by config.toml what the run goes on with
            write_atomically(self._path.with_name(ANSWER), text.encode())

    def remove(self) -> None:
        """Take away what was read; a newer one stays."""
        with suppress(OSError):  # gone already, or not ours to remove
            status = self._path.lstat()
            if (status.st_ino, status.st_mtime_ns) == self._seen:
                self._path.unlink()


def discard(folder: Path) -> None:
    """Take away what nobody took: it was meant for a run that has ended."""
    for name in (CONTROL, ANSWER):
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
    document = wish_of(new, keys)
    with suppress(OSError):
        (folder.path / ANSWER).unlink()
    path = folder.path / CONTROL
    try:
        write_atomically(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    deadline = time.monotonic() + wait_s
    while path.exists() and folder.is_running() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if path.exists():
        if folder.is_running():
            return None
        discard(folder.path)
    try:
        answer = (folder.path / ANSWER).read_text(encoding="utf-8")
    except OSError:
        return "the run has ended; nothing was changed"
    # Recorded before the file goes: what stands there now is what the run goes on with.
    recorded = RunFolder.open(folder.path).config
    if answer.startswith(APPLIED) and wish_of(recorded, keys) != document:
        return "the run took another command's change instead"
    return answer


def wish_of(config: Config, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Values of `config`, nested by section, as they travel to a run."""
    document: dict[str, dict[str, Any]] = {}
    for key in keys:
        section, _, name = key.partition(".")
        document.setdefault(section, {})[name] = _plain(config, key)
    return document

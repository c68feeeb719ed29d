"""Changing a run through a file in its folder.

A command writes the new values into `control.toml` in the run folder. The supervisor reads the
file every second, applies the values, records them in `config.toml`, and removes the file.
A command needs nothing but the folder: no port, no address, the same in both modes. On another
node of a cluster, a command sends its request to the run's control service instead
(`deploy.control.remote_run`).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from common.config import Config
from common.config_sections import NONE
from common.config_toml import build, load_toml, merge
from common.errors import UserError
from common.polling import poll_until
from common.storage import write_atomically
from common.text import shell_command
from deploy.runs.folder import CONTROL, REPLY, RunFolder

LIVE_KEYS = (
    *("learner.samples_per_insert", "learner.samples_per_insert_error"),
    *("checkpoint.every_s", "checkpoint.every_learner_steps"),
    "actors.count",
)
"""Keys that can be changed during a run."""
TAKEN_WITHIN_S = 10.0
"""Longest wait of a command for the run's reply: one piece of the run's work, and a read."""
MAX_BYTES = 1 << 16
"""No command writes a larger file."""
POLL_S = 0.05

RequestId = tuple[int, int]
"""Inode and modification time of a request's file; no other request within the wait has both."""

_APPLIED = "applied: "


@dataclass(frozen=True, slots=True)
class Reply:
    """A run's reply to a request.

    Attributes:
        applied: whether the run applied the change.
        text: the change, or the reason against it, in one line.
    """

    applied: bool
    text: str

    def __str__(self) -> str:
        """The reply as it is shown and written: `applied: TEXT`, or the reason alone."""
        return f"{_APPLIED}{self.text}" if self.applied else self.text

    @classmethod
    def parse(cls, text: str) -> Reply:
        """The reply that `str` wrote."""
        return cls(text.startswith(_APPLIED), text.removeprefix(_APPLIED))


def option(key: str) -> str:
    """The command-line option of a key."""
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
        UserError: a key cannot be changed during a run, or a value conflicts with the others.
    """
    keys = keys_of(changes)
    for key in keys:
        if key not in LIVE_KEYS:
            raise UserError(
                f"{source}: {key}: cannot be changed during a run; these keys can: "
                + ", ".join(LIVE_KEYS)
            )
    if not keys:
        raise UserError(
            f"{source}: names no key to change; these keys can be changed: {', '.join(LIVE_KEYS)}"
        )
    return build(merge(config.model_dump(), changes), source)


def describe(old: Config, new: Config, keys: Iterable[str]) -> str:
    """The changed values in one line: `learner.samples_per_insert 8 → 4`."""
    return ", ".join(f"{key} {_shown(old, key)} → {_shown(new, key)}" for key in keys)


def _plain(config: Config, key: str) -> Any:
    """A value as it stands in TOML."""
    section, _, name = key.partition(".")
    value = config.model_dump(mode="json")[section][name]
    return NONE if value is None else value


def _shown(config: Config, key: str) -> str:
    value = _plain(config, key)
    return f"{value:g}" if isinstance(value, float) else str(value)


class ControlFile:
    """The run's end of the channel: reads requests and writes replies."""

    def __init__(self, folder: Path) -> None:
        """The control file of the run in `folder`."""
        self._path = folder / CONTROL
        # Of the newest request that was read, so that a file that cannot be removed is read once.
        self._seen: RequestId | None = None

    def read(self) -> dict[str, Any] | None:
        """The requested changes, nested by section; None if there are none, or no new ones.

        Raises:
            UserError: the file is not a request of a command.
        """
        try:
            status = self._path.lstat()
        except OSError:
            return None
        request_id = _id_of(status)
        if request_id == self._seen:
            return None
        self._seen = request_id
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise UserError(f"{self._path}: must be a file of at most {MAX_BYTES} bytes")
        try:
            return load_toml(self._path)
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise UserError(f"{self._path}: not a TOML file ({error})") from None

    def reply(self, reply: Reply) -> None:
        """Write the reply to the request that was read, headed by its id; call before `remove`."""
        # If this fails, the new `config.toml` still tells the command about the change.
        with suppress(OSError):
            write_atomically(self._path.with_name(REPLY), f"{self._seen}\n{reply}".encode())

    def remove(self) -> None:
        """Remove the request that was read; a newer one stays."""
        with suppress(OSError):  # it is gone, or must not be removed
            if _id_of(self._path.lstat()) == self._seen:
                self._path.unlink()


def place_request(folder: Path, document: Mapping[str, Any]) -> RequestId | None:
    """Write a request for the run, unless the run has not read an earlier one yet.

    Several commands may do so at once: no request overwrites another.

    Args:
        folder: of the run.
        document: the request, nested by section.

    Returns:
        The request's id; None if an earlier request is waiting.

    Raises:
        OSError: the file cannot be written.
    """
    path, data = folder / CONTROL, tomlkit.dumps(document).encode()
    own = folder / f".{CONTROL}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        write_atomically(own, data)  # the run must never read half of it
        try:
            os.link(own, path)
        except FileExistsError:
            return None
        except OSError:  # a file system without links
            if path.exists():
                return None
            own.replace(path)
            return _id_of(path.lstat())
        return _id_of(own.lstat())
    finally:
        own.unlink(missing_ok=True)


def read_reply(folder: Path, request_id: RequestId) -> Reply | None:
    """The run's reply to one request; None if there is none."""
    try:
        first, _, text = (folder / REPLY).read_text(encoding="utf-8").partition("\n")
    except OSError:
        return None
    return Reply.parse(text) if first == str(request_id) else None


def discard(folder: Path) -> None:
    """Remove a request and a reply that are left from an earlier attempt of the run."""
    for name in (CONTROL, REPLY):
        with suppress(OSError):
            (folder / name).unlink()


def request_change(
    folder: RunFolder, new: Config, keys: Collection[str], timeout_s: float
) -> Reply | None:
    """Request a change from the run in `folder`, and wait for the reply.

    Args:
        folder: of the run.
        new: its configuration with the changes.
        keys: the keys to change.
        timeout_s: longest wait for the reply; after that the request stays until the run reads it.

    Returns:
        The reply; None if there is none yet.

    Raises:
        UserError: the run is not active, an earlier request is waiting, or the request cannot be
            written.
    """
    if not folder.is_running():
        options = [f"{option(key)}={_plain(new, key)}".removesuffix(".0") for key in keys]
        command = shell_command(["raydqn", "resume", str(folder.path), *options])
        raise UserError(
            f"{folder.path}: the run is not active, and nothing was changed; to continue the run "
            f"with the new values: {command}"
        )
    document, path = request_document(new, keys), folder.path / CONTROL
    deadline = time.monotonic() + timeout_s
    request_id = poll_until(lambda: _try_to_place(folder.path, document), timeout_s, POLL_S)
    if request_id is None:
        raise UserError(
            f"{path}: the run has not read an earlier request yet, and nothing was "
            "changed; try again later"
        )

    def over() -> bool:
        return not _is_waiting(path, request_id) or not folder.is_running()

    poll_until(over, deadline - time.monotonic(), POLL_S)
    if _is_waiting(path, request_id):
        if folder.is_running():
            return None
        discard(folder.path)
    reply = read_reply(folder.path, request_id)
    return reply or Reply(False, "the run has ended; nothing was changed")


def request_document(config: Config, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The values of some keys of `config`, nested by section, as they travel to a run."""
    document: dict[str, dict[str, Any]] = {}
    for key in keys:
        section, _, name = key.partition(".")
        document.setdefault(section, {})[name] = _plain(config, key)
    return document


def _try_to_place(folder: Path, document: Mapping[str, Any]) -> RequestId | None:
    try:
        return place_request(folder, document)
    except OSError as error:
        raise UserError(f"{folder / CONTROL}: cannot be written ({error.strerror})") from None


def _id_of(status: os.stat_result) -> RequestId:
    return status.st_ino, status.st_mtime_ns


def _is_waiting(path: Path, request_id: RequestId) -> bool:
    """Whether the run has not removed that request yet."""
    try:
        return _id_of(path.lstat()) == request_id
    except OSError:
        return False

"""A folder on a disk that hangs: each access waits, as on a network disk without its server."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager

LIMIT_S = 20.0
"""An access that waits so long continues, so that a test that waits for it fails and ends."""


class HangingDisk:
    """Notes each access to a folder, and has it wait while `hang` is in force.

    `accesses`: (whether the main thread made it, whether it had to wait, call, name).
    """

    active: HangingDisk | None = None
    hooked = False

    def __init__(self, folder) -> None:
        self.folder = str(folder)
        self.accesses: list[tuple[bool, bool, str, str]] = []
        self._answers = threading.Event()
        self._answers.set()

    @property
    def hangs(self) -> bool:
        return not self._answers.is_set()

    def hang(self) -> None:
        self._answers.clear()

    def answer(self) -> None:
        self._answers.set()

    def of_main_thread(self) -> set[tuple[str, str]]:
        """Calls of the main thread that had to wait, each with the file's name."""
        return {(call, name) for main, waits, call, name in self.accesses if main and waits}

    def access(self, call, path) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        if not name.startswith(self.folder):
            return
        main = threading.current_thread() is threading.main_thread()
        self.accesses.append((main, self.hangs, call, name.removeprefix(self.folder).lstrip("/")))
        self._answers.wait(LIMIT_S)


def _audit(event, arguments) -> None:
    disk = HangingDisk.active
    if disk is not None and (event == "open" or event.startswith("os.")) and arguments:
        disk.access(event, arguments[0])


@contextmanager
def hanging_disk(folder, monkeypatch):
    """A `HangingDisk` of a folder. At the end it answers, and the threads that waited end."""
    if not HangingDisk.hooked:  # for good: no hook of the interpreter's can be removed
        sys.addaudithook(_audit)
        HangingDisk.hooked = True
    disk = HangingDisk.active = HangingDisk(folder)

    def noted(name):
        real = getattr(os, name)

        def call(path, *arguments, **keywords):
            disk.access(f"os.{name}", path)
            return real(path, *arguments, **keywords)

        return call

    for name in ("stat", "lstat"):  # these are not audited
        monkeypatch.setattr(os, name, noted(name))
    before = set(threading.enumerate())
    try:
        yield disk
    finally:
        HangingDisk.active = None
        disk.answer()
        for thread in set(threading.enumerate()) - before:
            thread.join(LIMIT_S)

"""A `ray` that writes down what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.provisioning import ray_commands, tunnel

NOT_UP = "RuntimeError: Head node of cluster (raydqn) not found!"


class FakeRay:
    """Answers each command with a line of shell; `asked` lists the commands."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        """Replace the `ray` command for the test."""
        self.answers: dict[str, str] = {}
        self._folder = folder
        monkeypatch.setattr(ray_commands, "ray_path", lambda: str(self.write()))
        monkeypatch.setattr(tunnel, "ray_path", ray_commands.ray_path)

    def write(self) -> Path:
        """The script, with the answers of now."""
        lines = [f"{name}) {answer} ;;" for name, answer in self.answers.items()]
        script = self._folder / "ray"
        body = "\n".join(lines)
        script.write_text(
            f'#!/bin/sh\necho "$*" >> {self._folder}/asked\ncase $1 in\n{body}\nesac\n'
        )
        script.chmod(0o700)
        return script

    def has(self, command: str) -> Callable[[], bool]:
        """A function that tells whether a command was run."""
        return lambda: (self._folder / "asked").is_file() and command in self.asked

    @property
    def asked(self) -> list[str]:
        """The commands so far, without their arguments."""
        path = self._folder / "asked"
        return [line.split()[0] for line in path.read_text().splitlines()]

"""Options of a `ray start` command, as a cluster file holds it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def start_options(commands: Iterable[str]) -> dict[str, str]:
    """Options of the first `ray start` among shell commands, by their names with dashes.

    Args:
        commands: of a cluster file, such as `ulimit -n 65536; ray start --num-cpus=8`.

    Returns:
        The value of each option; empty where no command starts Ray or a quotation never ends.
    """
    command = next((command for command in commands if "ray start" in command), "")
    try:
        words = shlex.split(command.partition("ray start")[2])
    except ValueError:  # a quotation that never ends
        return {}
    options: dict[str, str] = {}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            following = words[index + 1] if index + 1 < len(words) else ""
            options[name] = (value if equals else following).rstrip(";")
    return options

"""Options of a `ray start` command, as a cluster file holds it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

MAX_LETTERS = 20_000
"""Of a command's options: `shlex` reads a text slowly."""
DEFAULT_PORT = "6379"
RAY_START_OPTIONS = (
    "--address", "--autoscaling-config", "--block", "--cgroup-path", "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port", "--dashboard-host", "--dashboard-port",
    "--disable-usage-stats", "--enable-object-reconstruction", "--enable-resource-isolation",
    "--head", "--help", "--include-dashboard", "--include-log-monitor", "--labels",
    "--labels-file", "--log-color", "--log-style", "--max-worker-port", "--memory",
    "--metrics-export-port", "--min-worker-port", "--no-monitor", "--no-redirect-output",
    "--node-ip-address", "--node-manager-port", "--node-name", "--num-cpus", "--num-gpus",
    "--object-manager-port", "--object-spilling-directory", "--object-store-memory",
    "--plasma-directory", "--port", "--proxy-server-url", "--ray-client-server-port",
    "--ray-debugger-external", "--redis-password", "--redis-shard-ports", "--redis-username",
    "--resources", "--runtime-env-agent-port", "--system-config", "--system-reserved-cpu",
    "--system-reserved-memory", "--temp-dir", "--tracing-startup-hook", "--verbose",
    "--worker-port-list",
)  # fmt: skip
"""Of `ray start` in Ray 2.60."""


def options_of(command: str) -> str:
    """The text after `ray start` in a command, as far as it is read."""
    return command.partition("ray start")[2][:MAX_LETTERS]


def start_options(commands: Iterable[str]) -> dict[str, str]:
    """Options of the first `ray start` among shell commands, by their names with dashes.

    Args:
        commands: of a cluster file, such as `ulimit -n 65536; ray start --num-cpus=8`.

    Returns:
        The value of each option; empty where no command starts Ray or a quotation never ends.
    """
    command = next((command for command in commands if "ray start" in command), "")
    try:
        words = shlex.split(options_of(command))
    except ValueError:  # a quotation that never ends
        return {}
    options: dict[str, str] = {}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            following = words[index + 1] if index + 1 < len(words) else ""
            options[name] = (value if equals else following).rstrip(";")
    return options

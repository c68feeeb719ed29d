"""Rules for the commands of a file of `ray up` that start Ray."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from common.suggestion import suggest
from deploy.provisioning.cluster_file import LOCAL, ClusterFile
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.kubernetes_rules import STOP_WAIT_S
from deploy.resources.ray_start_options import (
    DEFAULT_PORT,
    RAY_START_OPTIONS,
    options_of,
    start_options,
)

ANY_HOST = ("0.0.0.0", "::", "*")
REPLACED = {"--redis-port": "--port", "--redis-address": "--address"}
AUTH = "RAY_AUTH_MODE"
_SET = re.compile(rf"\b{AUTH}=['\"]?(\w*)")
_UNSETS = (
    (re.compile(r"\bunset\s"), re.compile(rf"\b{AUTH}\b")),
    (re.compile(r"\bexport\s+-n\s"), re.compile(rf"\b{AUTH}\b")),
    (re.compile(r"\bdeclare\s+\+x\s"), re.compile(rf"\b{AUTH}\b")),
    (re.compile(r"\benv\s"), re.compile(rf"(?<=\s)(-u\s*|--unset[=\s])['\"]?{AUTH}\b")),
)
"""Words that begin a statement, and what follows them where it removes the variable."""
_CLEARS = re.compile(r"\benv\s+(-i|-|--ignore-environment)(?=\s)")
_WRITES = re.compile(r">|\btee\b|\becho\b|\bprintf\b|\bsed\b|\bcat\b")
"""A command that writes a file, such as the profile of every shell."""
_OPEN = "or any client that reaches a port can run code"


def find_start_mistakes(cluster: ClusterFile) -> Iterator[Finding]:
    """Commands that start Ray without token, on another port, or not as the cluster needs it."""
    values = cluster.values
    for role in ("head", "worker"):
        key = f"{role}_start_ray_commands"
        yield from _token(key, values[f"{role}_setup_commands"], values)
        if not any("ray start" in command for command in values[key]):
            yield error(key, None, "have no `ray start`: must start Ray")
        yield from _options(key, values[key])
    yield from _head(cluster)
    yield from _address(values)


def _head(cluster: ClusterFile) -> Iterator[Finding]:
    """Options of the head's `ray start`, and variables for it."""
    key = "head_start_ray_commands"
    commands = cluster.values[key]
    starts = any("ray start" in command for command in commands)
    options = start_options(commands)
    host = options.get("--dashboard-host", "127.0.0.1")
    if host in ANY_HOST:
        yield error(
            f"{key}: --dashboard-host",
            host,
            "accepts jobs from every address: must be 127.0.0.1; `ray dashboard` forwards it",
        )
    if options and "--head" not in options:
        yield error(f"{key}: --head", None, "is missing: must be there, or no cluster starts")
    if "--autoscaling-config" not in options and starts:
        yield error(
            f"{key}: --autoscaling-config",
            None,
            "is missing: must be ~/ray_bootstrap_config.yaml, or Ray starts no worker",
        )
    wait = _exported(commands, "RAY_JOB_STOP_WAIT_TIME_S")
    if not (wait or "").isdigit() or int(wait or 0) < STOP_WAIT_S:
        yield warning(
            f"{key}: RAY_JOB_STOP_WAIT_TIME_S",
            wait or "",
            f"must be at least {STOP_WAIT_S}, or Ray kills a run while it saves",
        )
    if cluster.provider == LOCAL:
        version = _exported(commands, "RAY_enable_autoscaler_v2")
        if version != "0":
            yield error(
                f"{key}: RAY_enable_autoscaler_v2",
                version or "",
                "must be 0: that autoscaler never starts on-premises machines",
            )


def _exported(commands: Sequence[str], name: str) -> str | None:
    """The value that the last of `commands` gives an environment variable."""
    values = re.findall(rf"\b{name}=['\"]?(\w*)", "\n".join(commands))
    return values[-1] if values else None


def _token(key: str, setup: Sequence[str], values: Mapping[str, object]) -> Iterator[Finding]:
    """The variable with which Ray asks for the token, as `ray start` finds it.

    Ray runs each command in a shell of its own: a variable comes from the command with `ray start`,
    from a file that a command before it has written, or from the options of the container.
    """
    commands = [_without_comments(str(command)) for command in values[key]]  # type: ignore[attr-defined]
    setup = [_without_comments(command) for command in setup]
    name = f"{key}: {AUTH}"
    undone = next(filter(None, map(unsets_token, (*setup, *commands))), None)
    if undone is not None:
        yield error(name, undone, f"must stay token, {_OPEN}: remove what unsets it")
        return
    start = next((command for command in commands if "ray start" in command), None)
    if start is None:
        mode = _exported([*setup, *commands], AUTH)
    else:
        written = [c for c in (*setup, *commands) if c is not start and _WRITES.search(c)]
        before = start[: start.index("ray start")]
        mode = _exported([*_container_options(key, values), *written, before], AUTH)
        elsewhere = _exported([c for c in commands if c is not start], AUTH)
        if mode is None and elsewhere == "token":
            advice = (
                f"is set in a shell of its own: set it in the command with `ray start`, {_OPEN}"
            )
            yield error(name, None, advice)
            return
    if mode != "token":
        yield error(name, mode or "", f"must be token, {_OPEN}")


def unsets_token(command: str) -> str | None:
    """The part of a command that removes the variable for good; None if there is none."""
    found = None
    for statement in re.split(r"[;&|\n]", _without_comments(command)):
        undone = _undone(statement)
        found = undone or (None if _SET.search(statement) else found)
    return found


def _undone(statement: str) -> str | None:
    clears = _CLEARS.search(statement)
    if clears and f"{AUTH}=" not in statement[clears.end() :]:
        return clears[0]
    for word, name in _UNSETS:
        begins = word.search(statement)
        ends = begins and name.search(statement, begins.end() - 1)
        if begins and ends:
            return statement[begins.start() : ends.end()]
    return None


def _container_options(key: str, values: Mapping[str, object]) -> list[str]:
    docker = values.get("docker")
    docker = docker if isinstance(docker, Mapping) else {}
    names = ("run_options", f"{key.partition('_')[0]}_run_options")
    return [str(option) for name in names for option in docker.get(name) or ()]


def _without_comments(command: str) -> str:
    return re.sub(r"(^|[\s;])#.*", r"\1", command)


def _options(key: str, commands: Sequence[str]) -> Iterator[Finding]:
    """Options that `ray start` does not have: it would end at once."""
    for name in _names_of_options(commands):
        if name in REPLACED:
            yield error(f"{key}: {name}", None, f"`ray start` has none: must be {REPLACED[name]}")
        elif name not in RAY_START_OPTIONS:
            do = suggest(name, RAY_START_OPTIONS) or ": remove it"
            yield error(f"{key}: {name}", None, f"unknown option of `ray start` (Ray 2.60){do}")


def _names_of_options(commands: Sequence[str]) -> Iterator[str]:
    """Options of the first `ray start`, up to the end of that command."""
    command = next((command for command in commands if "ray start" in command), "")
    words = options_of(command).replace("\\\n", " ")
    lexer = shlex.shlex(words, posix=True, punctuation_chars=";&|<>()\n")
    lexer.whitespace, lexer.whitespace_split = " \t\r", True
    lexer.commenters = ""
    try:
        for word in lexer:
            if set(word) & set(";&|()\n") and not word.startswith("-"):
                return
            if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word, re.DOTALL):
                yield word.partition("=")[0]
    except ValueError:  # a quotation that never ends
        return


def _address(values: Mapping[str, object]) -> Iterator[Finding]:
    """The address of the head in the start commands of the workers."""
    head = start_options(values["head_start_ray_commands"])  # type: ignore[arg-type]
    worker = start_options(values["worker_start_ray_commands"])  # type: ignore[arg-type]
    key = "worker_start_ray_commands"
    if "--redis-address" in worker or not any("ray start" in c for c in values[key]):  # type: ignore[attr-defined]
        return
    port = head.get("--port", DEFAULT_PORT)
    right = f"must be $RAY_HEAD_IP:{port if port.isdigit() else DEFAULT_PORT}"
    if "--head" in worker:
        yield error(
            f"{key}: --head", None, f"starts one more cluster: put --address, which {right}"
        )
        return
    address = worker.get("--address")
    if address is None:
        yield error(f"{key}: --address", None, f"is missing: {right}, or no worker joins")
        return
    host, colon, of_worker = address.rpartition(":")
    if address in ("auto", "local") or host in ("localhost", "127.0.0.1", "::1", "[::1]"):
        yield error(f"{key}: --address", address, f"is the worker itself: {right}")
    elif not colon and re.fullmatch(r"\$\{?RAY_HEAD_IP\}?|[\d.]+", address):
        yield error(f"{key}: --address", address, f"has no port: {right}")
    elif port == "0":
        yield error(
            "head_start_ray_commands: --port", port, "is another one at each start: put 6379"
        )
    elif port.isdigit() and of_worker.isdigit() and port != of_worker:
        source = "head_start_ray_commands" if "--port" in head else "Ray's default"
        yield error(f"{key}: --address", address, f"the head listens on {port} ({source}): {right}")

"""Machine, versions and command of each attempt of a run: `attempts.jsonl` of the run folder.

A figure can be repeated, and a wall time be judged, only with the command, the versions and the
machine beside it.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from common.version import VERSION
from deploy.runs.records import ATTEMPT_RECORDS

PACKAGES = ("torch", "numpy", "gymnasium", "ray", "ale-py", "minatar", "box2d",
            "envpool")  # fmt: skip
"""Packages whose versions can change a result; one that is not installed is left out."""
CPUINFO = Path("/proc/cpuinfo")


def record_attempt(folder: Path, number: int, mode: str, command: str) -> None:
    """Append the record of an attempt that begins now; one that cannot be written is lost.

    Args:
        folder: of the run.
        number: of the attempt, from 1 on.
        mode: the runtime in words; may be empty.
        command: the command line that began the attempt.
    """
    line = json.dumps(describe_attempt(number, mode, command), ensure_ascii=False) + "\n"
    with suppress(OSError), (folder / ATTEMPT_RECORDS).open("ab") as file:
        file.write(line.encode("utf-8", "backslashreplace"))


def describe_attempt(number: int, mode: str, command: str) -> dict[str, Any]:
    """The record of an attempt: see `record_attempt`."""
    return {
        "attempt": number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "mode": mode,
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Versions of raydqn, Python and the packages in `PACKAGES`."""
    found = {"raydqn": VERSION, "Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """This machine: `cpu` (its model), `cores` that the process may use, `memory_bytes`, `system`.

    On a cluster it is the driver's; other nodes may differ.
    """
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's attempts; lines that are none are left out.

    A run of an earlier version has none.
    """
    found = []
    with suppress(OSError):
        text = (folder / ATTEMPT_RECORDS).read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    found.append(record)
    return found

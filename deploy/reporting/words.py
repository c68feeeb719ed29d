"""Numbers of a report in words: scores, intervals, times, machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.reporting.aggregate import Estimate

NONE = "–"
_PROGRAM = re.compile(r"\S*/raydqn(?= |$)")
_PLACE = re.compile(r" (?:--run-dir(?:=| +)(?:'[^']*'|\S)+|--resume-if-exists)(?= |$)")
_MODULE = re.compile(r"\S*/deploy/__main__\.py(?= |$)")


def score(value: float | None, digits: int | None = None) -> str:
    """A score with about four digits, and a true minus sign.

    Args:
        value: None: a dash.
        digits: behind the point; by default as many as the size asks for.
    """
    if value is None:
        return NONE
    if digits is None:
        digits = digits_for(value)
    return f"{value:,.{digits}f}".replace("-", "−")


def digits_for(*values: float | None) -> int:
    """Digits behind the point for numbers that are read side by side."""
    size = max((abs(value) for value in values if value is not None), default=0.0)
    return 0 if size >= 10_000 else 1 if size >= 100 else 2


def interval(estimate: Estimate, digits: int | None = None) -> str:
    """`495.1 to 500.0`; empty if there is none."""
    ends = estimate.interval
    if ends is None:
        return ""
    return f"{score(ends[0], digits)} to {score(ends[1], digits)}"


def duration(seconds: float) -> str:
    """`14 s`, `27 min`, `4.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def joined(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def versions_text(found: Iterable[Mapping[str, Any]]) -> str:
    """Versions of several runs: `raydqn 0.1.0, torch 2.12.0 and 2.13.0`; empty if unknown."""
    known: dict[str, dict[str, None]] = {}
    for versions in found:
        for name, version in versions.items():
            known.setdefault(str(name), {})[str(version)] = None
    return ", ".join(f"{name} {joined(values)}" for name, values in known.items())


def machine_text(machine: Mapping[str, Any]) -> str:
    """`AMD EPYC, 2 cores, 24 GiB of memory, Linux 6.1`."""
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    known = [
        str(machine.get("cpu") or "unknown processor"),
        f"{cores} usable {'core' if cores == 1 else 'cores'}" if isinstance(cores, int) else "",
        f"{memory / (1 << 30):.0f} GiB of memory" if isinstance(memory, (int, float)) else "",
        str(machine.get("system") or ""),
    ]
    return ", ".join(filter(None, known))


def command_text(command: str) -> str:
    """A command line as it can be typed anywhere: without the program's folder and its own.

    In the folder of the run, it would find the run itself.
    """
    command = _PROGRAM.sub("raydqn", command, count=1)
    command = _MODULE.sub("python -m deploy", command, count=1)
    return _PLACE.sub("", command)


def seeds_text(seeds: Iterable[int]) -> str:
    """`1, 2, 3`."""
    return ", ".join(str(seed) for seed in sorted(seeds))

"""`raydqn bench soak`: the memory of every process while actors outrun the learner."""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from actors.environments import environment_spec
from common.errors import UserError
from common.text import counted
from deploy.bench.live_run import CommandStarter
from deploy.bench.measurement import Measurement
from deploy.resources.memory import object_store_bytes
from deploy.runs.folder import RunFolder
from deploy.runs.run_status import read_status

SLOW_LEARNER = (
    *("--learner.batch-size", "1024", "--network.hidden", "512", "512"),
    *("--learner.samples-per-insert", "32", "--replay.capacity", "20000"),
    *("--checkpoint.every-s", "10", "--evaluation.every-learner-steps", "1000000"),
    *("--stop.score", "none", "--stop.env-steps", "none"),
    # Many small messages: after `COMPILED_AFTER_CALLS` calls a shard compiles its loops, which
    # takes 50 MiB once. With few messages, on a slow machine, that comes after the warm-up.
    *("--learner.batches-per-sample", "1", "--actors.chunk-steps", "2"),
)
"""Actors that are much faster than the learner, and a memory that is soon full."""
WARM_UP_SHARE = 1 / 3
GROWTH_MIB = 24.0
"""Allowed between the second and the last third of a soak, for each process: allocators breathe."""
RECORD_EVERY_S = 1.0
RAY_PROCESSES = ("raylet", "gcs_server")


class MemoryByPart:
    """Memory of every process of a run over time, by part."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.spilled_bytes = 0  # on the disk at the same time, at the most
        self.shared_mib: list[float] = []

    def record(self, root: psutil.Process, parts: Mapping[int, str], now_s: float) -> None:
        """Record the memory of `root` and all its descendants.

        Args:
            root: the driver.
            parts: the part in each process, by its number.
            now_s: of the run.
        """
        for process in [root, *root.children(recursive=True)]:
            try:
                command = process.cmdline()
                shared = process.memory_info().shared
                own = _own_bytes(process.pid)
            except (psutil.Error, OSError):
                continue
            name = Path(command[0]).name if command else ""
            title = "driver" if process.pid == root.pid else parts.get(process.pid)
            if title is None and name in RAY_PROCESSES:
                title = name
            if title is not None:
                self.points[title].append((now_s, own / 2**20))
            if title == "raylet":
                self.shared_mib.append(shared / 2**20)
                self._record_spilled(command)

    def _record_spilled(self, command: list[str]) -> None:
        match = re.search(r"--session_dir=(\S+)", " ".join(command))
        if match:
            files = Path(match[1]).glob("ray_spilled_objects*/*")
            self.spilled_bytes = max(self.spilled_bytes, sum(f.stat().st_size for f in files))


def _own_bytes(pid: int) -> int:
    """Private memory that a process wrote to, in RAM or swapped out.

    Pages of libraries do not count: whether they are private depends on other programs that use the
    same library.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) << 10 for name in ("Private_Dirty", "Swap"))


def _parts(run: Path) -> dict[int, str]:
    """The part in each process of a run, from its newest status; empty before the first one."""
    with suppress(UserError):
        rows: list[dict[str, Any]] = read_status(RunFolder.open(run))["parts"]
        return {row["pid"]: row["part"] for row in rows if row["pid"]}
    return {}


def soak_measurements(memory: MemoryByPart, bound_mib: float) -> Iterator[Measurement]:
    """Growth after the warm-up, and the object store, in which every page ever touched counts.

    Args:
        memory: of a whole run.
        bound_mib: limit of Ray's object store.

    Raises:
        UserError: a process grew, or the object store spilled or exceeded its bound.
    """
    grown = []
    for title, points in sorted(memory.points.items()):
        last_s = points[-1][0]
        after = [mib for at_s, mib in points if at_s >= last_s * WARM_UP_SHARE]
        if len(after) < 4:
            continue  # a process that ended early
        half = len(after) // 2
        before, later = median(after[:half]), median(after[half:])
        yield Measurement.of("memory of its own, at the end", title, after[half:], "MiB")
        yield Measurement.of("growth after the warm-up", title, [later - before], "MiB")
        if later - before > GROWTH_MIB:
            grown.append(f"{title} by {later - before:,.0f} MiB")
    yield Measurement.of("object store, pages touched", "raylet", memory.shared_mib, "MiB")
    yield Measurement.of("object store, its bound", "raylet", [bound_mib], "MiB")
    yield Measurement.of("object store, spilled", "raylet", [memory.spilled_bytes / 2**20], "MiB")
    if grown:
        raise UserError(f"memory grew: {', '.join(grown)}; at most {GROWTH_MIB:g} MiB are allowed")
    if max(memory.shared_mib, default=0.0) > bound_mib:
        raise UserError(f"Ray's object store exceeded its bound of {bound_mib:,.0f} MiB")
    if memory.spilled_bytes:
        raise UserError(
            f"Ray's object store spilled {counted(memory.spilled_bytes, 'byte')} to disk"
        )


def bench_soak(minutes: int, start: CommandStarter) -> Iterator[Measurement]:
    """Memory of every process while actors outrun the learner.

    Args:
        minutes: how long.
        start: starts a command; `output` is where it writes.
    """
    memory = MemoryByPart()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = ("train", "cartpole", "--run-dir", str(run), *SLOW_LEARNER)
        with Path(folder, "log").open("w+") as log:  # a pipe without a reader would fill up
            with start(
                *options, "--stop.wall-s", str(60 * minutes), output=log.fileno()
            ) as process:
                root, begin = psutil.Process(process.pid), time.monotonic()
                while process.poll() is None:
                    with suppress(psutil.Error):
                        memory.record(root, _parts(run), time.monotonic() - begin)
                    time.sleep(RECORD_EVERY_S)
            log.seek(0)
            lines = log.read().strip().splitlines()
        if process.returncode != 0:
            raise UserError(f"raydqn train: {lines[-1] if lines else 'failed'}")
        config = RunFolder.open(run).config
    spec = environment_spec(config.env, config.seed)
    yield from soak_measurements(memory, object_store_bytes(config, spec) / 2**20)

"""`raydqn bench checkpoint`, `supervision`, `recovery`, `soak`: what it costs to lose nothing."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from common.errors import UserError
from common.weights import WeightStore
from deploy.bench.measurement import Figure
from deploy.bench.replay import PICTURE, STACK, Stream
from deploy.control.file import APPLIED, TAKEN_WITHIN_S, ask, changed, keys_of
from deploy.resources.memory import object_store_bytes
from deploy.runs.folder import RunFolder
from deploy.runs.metrics import read_metrics
from deploy.runtime.ray_runtime import local_ray
from deploy.supervisor.timeouts import Timeouts
from replay_server.messages import encode_chunk
from replay_server.server import ReplayServer
from replay_server.shard_checkpoint import ShardRestore

GIB = 1 << 30
BATCH = 512
CHUNK = 1_000
NEW_SHARE = 0.1
"""Of the memory that is new when it is saved again."""
SLOW_LEARNER = (
    *("--learner.batch-size", "1024", "--network.hidden", "512", "512"),
    *("--learner.samples-per-insert", "32", "--replay.capacity", "20000"),
    *("--checkpoint.every-s", "10", "--evaluation.every-learner-steps", "1000000"),
    *("--stop.score", "none", "--stop.env-steps", "none"),
)
"""Actors that could do many times what the learner asks for; a memory that is soon full."""
ENDLESS = (
    *("--stop.score", "none", "--stop.env-steps", "none", "--stop.learner-steps", "none"),
    *("--evaluation.every-learner-steps", "1000000"),
    *("--checkpoint.every-s", "none", "--checkpoint.every-learner-steps", "none"),
)
CHECKPOINT_EVERY_S = 2.0
"""Thirty times as often as by default, so that what a checkpoint costs stands out of the noise."""
CHECKPOINTS = f"a checkpoint every {CHECKPOINT_EVERY_S:g} s"
NO_CHECKPOINTS = "none"
STRETCH_S = 8.0
REPORTS_OFTEN = ("--report.every-s", "0.2")
"""So that a stretch begins and ends when it should."""
PINGS = 2_000
WARM_UP_STEPS = 1_000
QUICK_TO_NOTICE = (
    *("--replay.shards", "2", "--replay.capacity", "4000000"),  # nothing is forgotten meanwhile
    *("--checkpoint.every-s", "3", "--supervision.hung-after-s", "4"),
)
PARTS = ("shard-0", "learner", "weight-store", "actor-0")
BETWEEN_DEATHS_S = 5.0
GIVE_UP_AFTER_REPORTS = 60
SETTLED_REPORTS, SETTLED_WITHIN = 4, 2_500
"""So many reports, and transitions: what the actors insert within half a second."""
Process = subprocess.Popen[str]
WARM_UP_SHARE = 1 / 3
GROWTH_MIB = 24.0
"""Allowed between the second and the last third of a soak, for each process: allocators breathe."""
POLL_S = 0.2
LOOK_AT_MEMORY_EVERY_S = 1.0


def bench_checkpoint(repeat: int | None) -> Iterator[Figure]:
    """One shard of 1 GiB on Ray: saving beside its work, what is new later, and restoring."""
    frames = GIB // PICTURE.nbytes
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (4 * CHUNK, *PICTURE.shape), dtype=np.uint8)
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    arguments = (frames, PICTURE, STACK, 0.6, int(frames * 1.02) + 2 * CHUNK, 0, 0)
    with local_ray(GIB) as runtime:
        for _ in range(repeat or 3):
            with tempfile.TemporaryDirectory() as folder:
                shard = runtime.spawn(ReplayServer, *arguments, name="shard-0")
                stream = Stream(pool, STACK, CHUNK)

                def insert(transitions: int, into: Any = shard, source: Stream = stream) -> None:
                    for _ in range(transitions // CHUNK):
                        into.call("insert", encode_chunk(source.next())).result()

                insert(frames)
                names = ("1 GiB, all of it", f"1 GiB, {NEW_SHARE:.0%} of it new")
                gaps = [_draw(shard) for _ in range(50)]
                measured["between two samples", "not saving"].append(max(gaps))
                files: dict[str, Any] = {}
                for number, what in enumerate(names):
                    begin, gaps = time.perf_counter(), []
                    shard.call("begin_save", folder, f"c{number}/shard-0.rdqn", True).result()
                    while (saved := shard.call("saved").result()) is None:
                        gaps.append(_draw(shard))
                    files = saved
                    measured["saving beside sampling", what].append(time.perf_counter() - begin)
                    measured["between two samples", f"saving {what}"].append(max(gaps, default=0))
                    insert(int(frames * NEW_SHARE))
                runtime.kill(shard)
                origin = ShardRestore(folder, ("c1/shard-0.rdqn",), files, 0, 1)
                begin = time.perf_counter()
                again = runtime.spawn(
                    ReplayServer, *arguments, 1, "none", None, origin, name="shard-0-1"
                )
                size = again.call("summary").result().size
                assert size > 0.9 * frames, size
                measured["restoring, process start included", "1 GiB"].append(
                    time.perf_counter() - begin
                )
                runtime.kill(again)
    for (figure, subject), values in measured.items():
        yield Figure.of(figure, subject, values, "s")


def _draw(shard: Any) -> float:
    """Seconds until a sample is there."""
    begin = time.perf_counter()
    shard.call("sample", BATCH).result()
    return time.perf_counter() - begin


def bench_supervision(repeat: int | None, start: Callable[..., Process]) -> Iterator[Figure]:
    """Learner steps per second of `cartpole` on Ray, with checkpoints and without, in turn.

    One run, of which the interval is changed while it goes on: two runs differ by more than what
    is to be measured. What comes first is changed from pair to pair. Signs of life are asked for
    all the time: what they cost is measured by itself.

    Args:
        repeat: pairs of stretches.
        start: starts a command; `output` is where it writes.
    """
    rates: dict[str, list[float]] = {CHECKPOINTS: [], NO_CHECKPOINTS: []}
    with _endless_run(start, *REPORTS_OFTEN) as (run, _):
        for number in range(repeat or 30):
            for name in sorted(rates, reverse=number % 2 == 1):
                _set_interval(run, CHECKPOINT_EVERY_S if name == CHECKPOINTS else None)
                rates[name].append(_steps_per_s(run))
    for name, values in rates.items():
        yield Figure.of("learner steps", name, values, "learner steps/s")
    ratios = [a / b for a, b in zip(rates[CHECKPOINTS], rates[NO_CHECKPOINTS], strict=True)]
    yield Figure.of("learner steps", "with ÷ without", ratios, "ratio")
    yield Figure.of("95 % interval of the median", "with ÷ without", _middle(ratios), "ratio")
    yield from _signs_of_life()


def _signs_of_life() -> Iterator[Figure]:
    """What it takes of a core to ask a learner, the weights' holder and one shard for them."""
    with local_ray(100 << 20) as runtime:
        handle = runtime.spawn(WeightStore, -1, name="weight-store")
        place = runtime.ping(handle).result()
        assert place is not None
        processes = [psutil.Process(), psutil.Process(place.pid)]

        def taken_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in processes)

        measured = []
        for _ in range(3):
            begin_s = taken_s()
            for _ in range(PINGS):
                runtime.ping(handle).result()
            measured.append((taken_s() - begin_s) / PINGS)
    parts = 3
    share = [100 * parts * seconds / Timeouts().heartbeat_every_s for seconds in measured]
    yield Figure.of("a sign of life, both processes", "CPU", [1e3 * s for s in measured], "ms")
    yield Figure.of("signs of life of three parts", "CPU", share, "% of a core")


def _middle(values: list[float]) -> list[float]:
    """Those between which the median of what they are drawn from lies, with 95 %: a sign test."""
    number, out, outside = len(values), 0, 0.0
    while (outside := outside + math.comb(number, out) / 2**number) <= 0.025:
        out += 1
    out = max(out - 1, 0)
    return sorted(values)[out : number - out]


@contextmanager
def _endless_run(start: Callable[..., Process], *options: str) -> Iterator[tuple[Path, Process]]:
    """A run of `cartpole` on Ray that learns until it is left: its folder, and its process."""
    with tempfile.TemporaryDirectory() as folder:
        run, log = Path(folder, "run"), Path(folder, "log")
        command = ("train", "cartpole", "--run-dir", str(run), *ENDLESS, *options)
        # A pipe that nobody reads would fill.
        with log.open("w") as output, start(*command, output=output.fileno()) as process:
            try:
                _wait_for_steps(run, WARM_UP_STEPS, process)
                yield run, process
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()


def _wait_for_steps(run: Path, steps: int, process: Process) -> None:
    """Wait until the learner has made so many steps."""
    while process.poll() is None:
        with suppress(UserError):  # no report yet
            if _learned(run)[1] >= steps:
                return
        time.sleep(POLL_S)
    raise UserError("raydqn train: ended before it was measured")


def _set_interval(run: Path, every_s: float | None) -> None:
    """Have the run that goes on save every so many seconds; None: never."""
    folder = RunFolder.open(run)
    changes = {"checkpoint": {"every_s": every_s}}
    new = changed(folder.config, changes, "benchmark")
    answer = ask(folder, new, keys_of(changes), TAKEN_WITHIN_S)
    if answer is None or not answer.startswith(APPLIED):
        raise UserError(f"checkpoint.every_s={every_s}: not taken: {answer}")


def _steps_per_s(run: Path) -> float:
    """Learner steps per second over `STRETCH_S` from now."""
    begin_s, begin = _learned(run)
    time.sleep(STRETCH_S)
    end_s, end = _learned(run)
    return (end - begin) / (end_s - begin_s)


def _learned(run: Path) -> tuple[float, int]:
    """When the newest report was made, and the learner steps that it counts."""
    report = read_metrics(run)[-1]
    return report["wall_s"], report["learner_steps"]


def bench_recovery(repeat: int | None, start: Callable[..., Process]) -> Iterator[Figure]:
    """Seconds until another part is ready in the place of one that died or hangs; what was lost.

    Args:
        repeat: how often each part dies and hangs.
        start: starts a command; `output` is where it writes.
    """
    measured: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with _endless_run(start, *QUICK_TO_NOTICE) as (run, process):
        for _ in range(repeat or 3):
            for part, end in product(PARTS, (signal.SIGKILL, signal.SIGSTOP)):
                _wait_for_part(run, part, 0, process)
                time.sleep(BETWEEN_DEATHS_S)
                seconds, lost = _recover(run, part, end, process)
                subject = f"{part}, {end.name}"
                measured["until another is ready", subject, "s"].append(seconds)
                for unit, amount in lost.items():
                    measured[f"{unit} lost", subject, unit].append(amount)
        begin = time.monotonic()
    measured["SIGTERM to the end", "the command", "s"].append(time.monotonic() - begin)
    for (figure, subject, unit), values in measured.items():
        yield Figure.of(figure, subject, values, unit)


def _recover(
    run: Path, part: str, end: signal.Signals, process: Process
) -> tuple[float, dict[str, float]]:
    """Have a part end: seconds until another is ready, and what was lost by unit."""
    row = _row_of(RunFolder.open(run).read_status(), part)
    before = read_metrics(run)[-1]
    os.kill(row["pid"], end)
    begin_s = time.time()
    ready_s = _wait_for_part(run, part, row["incarnation"] + 1, process)
    seen = len(read_metrics(run))
    # The learner tells what shards hold: of another one not before it has drawn from it.
    while len(reports := read_metrics(run)) < seen + 5 or not _settled(reports):
        if len(reports) > seen + GIVE_UP_AFTER_REPORTS:
            raise UserError(f"what was lost with {part} cannot be told: is the memory full?")
        time.sleep(POLL_S)
    reports = [line for line in reports if line["wall_s"] > before["wall_s"]]
    lost: dict[str, float] = {}
    if part.startswith("shard"):
        lost["transitions"] = _missing(reports[-1]) - _missing(before)
    if part == "learner":
        steps = [line["learner_steps"] for line in (before, *reports)]
        lost["learner steps"] = max(0, *(a - b for a, b in pairwise(steps)))
    return ready_s - begin_s, lost


def _missing(report: dict[str, Any]) -> float:
    """Transitions that were inserted, and that no shard holds."""
    return float(report["transitions"] - report["replay_size"])


def _settled(reports: list[dict[str, Any]]) -> bool:
    """Whether the newest reports agree about what is missing, but for what is on its way."""
    missing = [_missing(report) for report in reports[-SETTLED_REPORTS:]]
    return max(missing) - min(missing) < SETTLED_WITHIN


def _wait_for_part(run: Path, part: str, incarnation: int, process: Process) -> float:
    """Wait until the part of that incarnation, or a later one, is up; since when it is."""
    while process.poll() is None:
        status = RunFolder.open(run).read_status()
        row = _row_of(status, part)
        if row["incarnation"] >= incarnation and row["state"] == "up" and row["pid"]:
            return float(status["at"] - row["age_s"])
        time.sleep(POLL_S)
    raise UserError("raydqn train: ended before it was measured")


def _row_of(status: dict[str, Any], part: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = status["parts"]
    return next(row for row in rows if row["part"] == part)


class MemoryByPart:
    """Memory of every process of a run, by the part it holds, over time."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.spilled_bytes = 0  # that lay on the disk at the same time, at the most
        self.shared_mib: list[float] = []

    def look(self, root: psutil.Process, now_s: float) -> None:
        """Note what all processes below `root`, and it, take now."""
        for process in [root, *root.children(recursive=True)]:
            try:
                command = process.cmdline()
                shared = process.memory_info().shared
                own = _own_bytes(process.pid)
            except (psutil.Error, OSError):
                continue
            title = _title(command, process.pid == root.pid)
            if title is not None:
                self.points[title].append((now_s, own / 2**20))
            if title == "raylet":
                self.shared_mib.append(shared / 2**20)
                self._look_for_spilled(command)

    def _look_for_spilled(self, command: list[str]) -> None:
        match = re.search(r"--session_dir=(\S+)", " ".join(command))
        if match:
            files = Path(match[1]).glob("ray_spilled_objects*/*")
            self.spilled_bytes = max(self.spilled_bytes, sum(f.stat().st_size for f in files))


def _own_bytes(pid: int) -> int:
    """Memory that a process wrote to and shares with nobody, swapped out or not.

    Pages of libraries do not count: they are "unique" to a process, or not, as other programs that
    use the same library come and go.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) << 10 for name in ("Private_Dirty", "Swap"))


def _title(command: list[str], is_root: bool) -> str | None:
    """What a process is called: a remote, the driver, or one of Ray's own."""
    if is_root:
        return "driver"
    if not command:
        return None
    remote = re.match(r"ray::([a-z]+(?:-\d+)?)-\d+", command[0])
    if remote:
        return remote[1]
    name = Path(command[0]).name
    return name if name in ("raylet", "gcs_server") else None


def soak_figures(memory: MemoryByPart, bound_mib: float) -> Iterator[Figure]:
    """What grew after the warm-up; of the object store, pages ever touched count as taken.

    Args:
        memory: of a whole run.
        bound_mib: that Ray's object store must stay below.

    Raises:
        UserError: a process grew, or the object store spilled or exceeded its bound.
    """
    grown = []
    for title, points in sorted(memory.points.items()):
        last_s = points[-1][0]
        after = [mib for at_s, mib in points if at_s >= last_s * WARM_UP_SHARE]
        if len(after) < 4:
            continue  # it ended early
        half = len(after) // 2
        before, later = median(after[:half]), median(after[half:])
        yield Figure.of("memory of its own, at the end", title, after[half:], "MiB")
        yield Figure.of("growth after the warm-up", title, [later - before], "MiB")
        if later - before > GROWTH_MIB:
            grown.append(f"{title} by {later - before:,.0f} MiB")
    yield Figure.of("object store, pages touched", "raylet", memory.shared_mib, "MiB")
    yield Figure.of("object store, its bound", "raylet", [bound_mib], "MiB")
    yield Figure.of("object store, spilled", "raylet", [memory.spilled_bytes / 2**20], "MiB")
    if grown:
        raise UserError(f"memory grew: {', '.join(grown)}; at most {GROWTH_MIB:g} MiB are allowed")
    if max(memory.shared_mib, default=0.0) > bound_mib:
        raise UserError(f"Ray's object store took more than its bound of {bound_mib:,.0f} MiB")
    if memory.spilled_bytes:
        raise UserError(f"Ray's object store spilled {memory.spilled_bytes:,} bytes to disk")


def bench_soak(minutes: int, start: Callable[..., subprocess.Popen[str]]) -> Iterator[Figure]:
    """Memory of every process while actors outrun the learner.

    Args:
        minutes: how long.
        start: starts a command; `output` is where it writes.
    """
    from actors.environments import environment_spec

    memory = MemoryByPart()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = ("train", "cartpole", "--run-dir", str(run), *SLOW_LEARNER)
        with Path(folder, "log").open("w+") as log:  # a pipe that nobody reads would fill
            with start(
                *options, "--stop.wall-s", str(60 * minutes), output=log.fileno()
            ) as process:
                root, begin = psutil.Process(process.pid), time.monotonic()
                while process.poll() is None:
                    with suppress(psutil.Error):
                        memory.look(root, time.monotonic() - begin)
                    time.sleep(LOOK_AT_MEMORY_EVERY_S)
            log.seek(0)
            lines = log.read().strip().splitlines()
        if process.returncode != 0:
            raise UserError(f"raydqn train: {lines[-1] if lines else 'failed'}")
        config = RunFolder.open(run).config
    spec = environment_spec(config.env, config.seed)
    yield from soak_figures(memory, object_store_bytes(config, spec) / 2**20)

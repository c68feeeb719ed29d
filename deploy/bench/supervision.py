"""`raydqn bench supervision`: the cost of checkpoints and heartbeats while a run learns."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from common.errors import UserError
from common.parts import WEIGHT_STORE
from common.weights import WeightStore
from deploy.bench.live_run import CommandStarter, endless_run, newest_steps
from deploy.bench.measurement import Measurement
from deploy.control.control_file import TAKEN_WITHIN_S, changed, keys_of, request_change
from deploy.runs.folder import RunFolder
from deploy.runtime.local_ray import local_ray
from deploy.supervisor.timeouts import Timeouts

CHECKPOINT_EVERY_S = 2.0
"""Thirty times as often as by default, so that the cost of a checkpoint exceeds the noise."""
CHECKPOINTS = f"a checkpoint every {CHECKPOINT_EVERY_S:g} s"
NO_CHECKPOINTS = "none"
STRETCH_S = 8.0
REPORTS_OFTEN = ("--report.every-s", "0.2")
"""Frequent reports, so that a stretch begins and ends on time."""
PINGS = 2_000


def bench_supervision(repeat: int, start: CommandStarter) -> Iterator[Measurement]:
    """Learner steps per second of `cartpole` on Ray, with checkpoints and without, in turn.

    The interval changes within one run, because two runs differ by more than the cost of
    checkpoints. The order changes from pair to pair. Heartbeats are on all the time; their cost is
    measured separately.

    Args:
        repeat: pairs of stretches.
        start: starts a command; `output` is where it writes.
    """
    rates: dict[str, list[float]] = {CHECKPOINTS: [], NO_CHECKPOINTS: []}
    with endless_run(start, *REPORTS_OFTEN) as (run, _):
        for number in range(repeat):
            for name in sorted(rates, reverse=number % 2 == 1):
                _set_interval(run, CHECKPOINT_EVERY_S if name == CHECKPOINTS else None)
                rates[name].append(_steps_per_s(run))
    for name, values in rates.items():
        yield Measurement.of("learner steps", name, values, "learner steps/s")
    ratios = [a / b for a, b in zip(rates[CHECKPOINTS], rates[NO_CHECKPOINTS], strict=True)]
    yield Measurement.of("learner steps", "with ÷ without", ratios, "ratio")
    yield Measurement.of(
        "95 % interval of the median", "with ÷ without", median_interval(ratios), "ratio"
    )
    yield from _heartbeats()


def _heartbeats() -> Iterator[Measurement]:
    """The share of a core for the heartbeats of learner, weight store and one shard."""
    with local_ray(100 << 20) as runtime:
        handle = runtime.spawn(WeightStore, -1, part=WEIGHT_STORE, incarnation=0)
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
    yield Measurement.of("a heartbeat, both processes", "CPU", [1e3 * s for s in measured], "ms")
    yield Measurement.of("heartbeats of three parts", "CPU", share, "% of a core")


def median_interval(values: list[float]) -> list[float]:
    """The values within the 95 % interval of the median of their distribution, by a sign test."""
    number, out, outside = len(values), 0, 0.0
    while (outside := outside + math.comb(number, out) / 2**number) <= 0.025:
        out += 1
    out = max(out - 1, 0)
    return sorted(values)[out : number - out]


def _set_interval(run: Path, every_s: float | None) -> None:
    """Change the interval of checkpoints of the active run; None: no checkpoints."""
    folder = RunFolder.open(run)
    changes = {"checkpoint": {"every_s": every_s}}
    new = changed(folder.config, changes, "benchmark")
    reply = request_change(folder, new, keys_of(changes), TAKEN_WITHIN_S)
    if reply is None or not reply.applied:
        raise UserError(f"checkpoint.every_s={every_s}: the run did not apply it: {reply}")


def _steps_per_s(run: Path) -> float:
    """Learner steps per second over `STRETCH_S` from now."""
    begin_s, begin = newest_steps(run)
    time.sleep(STRETCH_S)
    end_s, end = newest_steps(run)
    return (end - begin) / (end_s - begin_s)

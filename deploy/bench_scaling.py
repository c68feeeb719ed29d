"""`raydqn bench scaling`: env steps per second against the number of actors, and who gets tired."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import psutil

from common.types import UserError
from deploy.figures import Figure
from deploy.metrics import METRICS, STATUS

STEP_S = 4 / 139
"""Of an actor in the paper of Ape-X: 139 frames per second, four frames a step."""
COUNTS = (1, 2, 4, 8, 16, 32)
START_S = 240.0
SETTLE_S = 5.0
MEASURE_S = 20.0
OPTIONS = (
    *("--env.id", "deploy.waiting_env:Waiting-v0", "--env.kwargs", f"{{step_s = {STEP_S:.6f}}}"),
    *("--actors.envs", "1", "--actors.collect-steps", "32", "--actors.chunk-steps", "32"),
    # The learner is not what is measured: it has little to do, and never holds an actor up.
    *("--network.hidden", "32", "--learner.batch-size", "32"),
    *("--learner.samples-per-insert", "0.25", "--learner.samples-per-insert-error", "5000"),
    *("--replay.capacity", "50000"),
    *("--evaluation.every-learner-steps", "1000000", "--checkpoint.every-s", "none"),
    *("--checkpoint.every-learner-steps", "none", "--supervision.hung-after-s", "none"),
    *("--stop.score", "none", "--stop.env-steps", "none"),
)
Start = Callable[..., subprocess.Popen[str]]


def bench_scaling(repeat: int | None, start: Start) -> Iterator[Figure]:
    """Env steps per second with 1 … 32 actors whose environment only waits.

    Args:
        repeat: rounds; each measures every number of actors once.
        start: starts a command; `output` is where it writes.
    """
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    driver: dict[int, list[float]] = {count: [] for count in COUNTS}
    machine: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(repeat or 1):
        for count in COUNTS:
            rate, driver_cpu, machine_cpu = _measure(count, start)
            rates[count].append(rate)
            driver[count].append(driver_cpu)
            machine[count].append(machine_cpu)
    ideal = median(rates[1])
    for count in COUNTS:
        yield Figure.of("env steps", f"{count} actors", rates[count], "env steps/s")
        shares = [rate / (ideal * count) for rate in rates[count]]
        yield Figure.of("of linear", f"{count} actors", shares, "ratio")
        waiting = [rate * STEP_S / count for rate in rates[count]]
        yield Figure.of("of what waiting alone allows", f"{count} actors", waiting, "ratio")
        yield Figure.of("driver's CPU", f"{count} actors", driver[count], "cores")
        each = [1000 * cpu / count for cpu in driver[count]]
        yield Figure.of("driver's CPU per actor", f"{count} actors", each, "mcores")
        yield Figure.of("machine's CPU", f"{count} actors", machine[count], "cores")


def _measure(count: int, start: Start) -> tuple[float, float, float]:
    """Env steps per second, cores that the driver used, cores that the machine used."""
    with tempfile.TemporaryDirectory() as folder:
        run, options = Path(folder, "run"), ("--actors.count", str(count), *OPTIONS)
        with (
            Path(folder, "log").open("w+") as log,
            start(
                "train", "cartpole", "--run-dir", str(run), *options, output=log.fileno()
            ) as process,
        ):
            try:
                _wait_until_all_act(run, count, process)
                time.sleep(SETTLE_S)
                driver = psutil.Process(process.pid)
                begin, (wall_s, steps) = time.monotonic(), _progress(run)
                before, idle = driver.cpu_times(), psutil.cpu_times().idle
                time.sleep(MEASURE_S)
                after, idle_after = driver.cpu_times(), psutil.cpu_times().idle
                seconds, (wall_after_s, steps_after) = time.monotonic() - begin, _progress(run)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()
    used = after.user + after.system - before.user - before.system
    cores = psutil.cpu_count() or 1
    rate = (steps_after - steps) / (wall_after_s - wall_s)
    return rate, used / seconds, cores - (idle_after - idle) / seconds


def _wait_until_all_act(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if (run / STATUS).is_file():
            parts = json.loads((run / STATUS).read_text(encoding="utf-8"))["parts"]
            rates = [part["rate"] for part in parts if part["part"].startswith("actor-")]
            if len(rates) == count and all(rates):
                return
        time.sleep(0.5)
    raise UserError(f"{count} actors did not all act within {START_S:g} s")


def _progress(run: Path) -> tuple[float, int]:
    """When the newest report was made, and the env steps that it counts."""
    line = json.loads((run / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    return line["wall_s"], line["env_steps"]

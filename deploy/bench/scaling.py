"""`raydqn bench scaling`: env steps per second and CPU against the number of actors."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from actors.environments import environment_spec
from common.config_toml import merge
from common.errors import UserError
from common.handles import Handle
from common.parts import PartId, Role, actor
from common.polling import poll_until
from common.text import counted
from common.types import ActorReport, Episode
from deploy.bench.measurement import Measurement
from deploy.launch.presets import make_config
from deploy.launch.run import run_parts
from deploy.runs.folder import STATUS, RunFolder
from deploy.runs.metrics_file import read_metrics
from deploy.runtime.local_ray import OneMachine, local_ray
from deploy.runtime.ray_runtime import RayRuntime

STEP_S = 4 / 139
"""Of an actor in the paper of Ape-X: 139 frames per second, four frames a step."""
COUNTS = (1, 2, 4, 8, 16, 32)
START_S = 240.0
POLL_S = 0.5
SETTLE_S = 5.0
MEASURE_S = 20.0
OPTIONS = (
    *(
        "--env.id",
        "deploy.bench.sleep_env:Sleep-v0",
        "--env.kwargs",
        f"{{step_s = {STEP_S:.6f}}}",
    ),
    *("--actors.envs", "1", "--actors.collect-steps", "32", "--actors.chunk-steps", "32"),
    # The learner is not measured: it has little to do, and never delays an actor.
    *("--network.hidden", "32", "--learner.batch-size", "32"),
    *("--learner.samples-per-insert", "0.25", "--learner.samples-per-insert-error", "5000"),
    *("--replay.capacity", "50000"),
    *("--evaluation.every-learner-steps", "1000000", "--checkpoint.every-s", "none"),
    *("--checkpoint.every-learner-steps", "none", "--supervision.hung-after-s", "none"),
    *("--stop.score", "none", "--stop.env-steps", "none"),
)
CROWDS = (32, 360, 10_000)
REPORTS = 15_000
REPORT_STEPS = 256
"""Env steps between two reports of an actor, by default."""
CROWD_OPTIONS = {
    "actors": {"count": 1},
    "network": {"hidden": [32]},
    "learner": {"samples_per_insert_error": 1e12, "stall_timeout_s": None},
    "evaluation": {"every_learner_steps": 1_000_000},
    "checkpoint": {"every_s": None, "every_learner_steps": None},
    "stop": {"score": None, "env_steps": None},
}
Start = Callable[..., subprocess.Popen[str]]


def bench_scaling(repeat: int, start: Start) -> Iterator[Measurement]:
    """Env steps per second with 1 … 32 actors whose environment only sleeps.

    Args:
        repeat: rounds; each measures every number of actors once.
        start: starts a command; `output` is where it writes.
    """
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    driver: dict[int, list[float]] = {count: [] for count in COUNTS}
    machine: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(repeat):
        for count in COUNTS:
            rate, driver_cpu, machine_cpu = _measure(count, start)
            rates[count].append(rate)
            driver[count].append(driver_cpu)
            machine[count].append(machine_cpu)
    yield from _supervisor(repeat)
    ideal = median(rates[1])
    for count in COUNTS:
        actors = counted(count, "actor")
        yield Measurement.of("env steps", actors, rates[count], "env steps/s")
        shares = [rate / (ideal * count) for rate in rates[count]]
        yield Measurement.of("of linear", actors, shares, "ratio")
        waiting = [rate * STEP_S / count for rate in rates[count]]
        yield Measurement.of("of what waiting alone allows", actors, waiting, "ratio")
        yield Measurement.of("driver's CPU", actors, driver[count], "cores")
        each = [1000 * cpu / count for cpu in driver[count]]
        yield Measurement.of("driver's CPU per actor", actors, each, "mcores")
        yield Measurement.of("machine's CPU", actors, machine[count], "cores")


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
    def all_act() -> bool:
        if not (run / STATUS).is_file():
            return False
        parts = json.loads((run / STATUS).read_text(encoding="utf-8"))["parts"]
        rates = [part["rate"] for part in parts if part["part"].startswith("actor-")]
        return len(rates) == count and all(rates)

    poll_until(lambda: all_act() or process.poll() is not None, START_S, POLL_S)
    if not all_act():
        raise UserError(f"{counted(count, 'actor')} did not all act within {START_S:g} s")


def _progress(run: Path) -> tuple[float, int]:
    """The time of the newest report, and its env steps."""
    line = read_metrics(run)[-1]
    return line["wall_s"], line["env_steps"]


class Parrot:
    """Replaces all actors: reports at once, without any work.

    The rest of the run is the supervisor's work, and Ray's for the calls.
    """

    def __init__(self, actors: int) -> None:
        """The replacement of `actors` actors."""
        self._actors = actors
        self._reported = 0

    def collect(self, steps: int, env_steps: int) -> ActorReport:
        """The report of the next actor, without transitions."""
        self._reported += 1
        return ActorReport(
            index=self._reported % self._actors,
            incarnation=0,
            env_steps=REPORT_STEPS,
            frames=REPORT_STEPS,
            transitions=0,
            episodes=[Episode(200.0, 200, 0.1)],
            epsilon=0.1,
            version=0,
            fetches=0,
            inserts_in_flight=0,
            dropped=0,
            unreachable=[],
            wall_s=0.1,
            env_s=0.1,
            policy_s=0.0,
            insert_wait_s=0.0,
        )

    def reconnect(self, title: str, handle: Handle) -> None:
        """Do nothing: it calls no other part."""

    def close(self) -> None:
        """Do nothing: it holds no resources."""


class _Crowd(RayRuntime):
    """A runtime in which one `Parrot` fills the slots of all actors."""

    def __init__(self, actors: int) -> None:
        super().__init__(OneMachine())
        self._parrot = super().spawn(Parrot, actors, part=actor(0), incarnation=0)

    def spawn(
        self,
        cls: type,
        *args: Any,
        part: PartId,
        incarnation: int,
        public_name: str | None = None,
    ) -> Handle:
        if part.role is Role.ACTOR:
            return self._parrot
        return super().spawn(
            cls, *args, part=part, incarnation=incarnation, public_name=public_name
        )

    def max_actors(self) -> int | None:
        return None


def _supervisor(repeat: int) -> Iterator[Measurement]:
    """The supervisor's CPU time per report, by the number of actors."""
    for count in CROWDS:
        rates, costs = [], []
        for _ in range(repeat):
            rate, cost_s = _read_reports(count)
            rates.append(rate)
            costs.append(1e6 * cost_s)
        subject = f"{counted(count, 'actor')} that report at once"
        yield Measurement.of("reports read", subject, rates, "reports/s")
        yield Measurement.of("supervisor's CPU per report", subject, costs, "µs")


def _read_reports(count: int) -> tuple[float, float]:
    """Reports per second of `count` actors that report all the time; CPU seconds per report."""
    stop = {"stop": {"env_steps": REPORTS * REPORT_STEPS}, "actors": {"count": count}}
    config = make_config("cartpole", overrides=merge(CROWD_OPTIONS, stop))
    spec = environment_spec(config.env, config.seed)
    view = _Stopwatch()
    with tempfile.TemporaryDirectory() as place, local_ray(256 << 20):
        folder = RunFolder.create(Path(place, "run"), config)
        run_parts(folder, spec, None, _Crowd(count), view, time.monotonic())
    # The last interval includes the end of the run, the first one its start.
    seen = view.seen[:-1] if len(view.seen) > 2 else view.seen
    end_s, end_cpu_s, last = seen[-1]
    begin = next((one for one in seen[1:] if one[2] < last), seen[0])
    begin_s, begin_cpu_s, first = begin
    reports = (last - first) / REPORT_STEPS
    return reports / (end_s - begin_s), (end_cpu_s - begin_cpu_s) / reports


class _Stopwatch:
    """A view that records env steps, time and this process's CPU time of each report."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, int]] = []

    def update(self, report: dict[str, Any]) -> None:
        if report["env_steps"]:
            self.seen.append((time.monotonic(), time.process_time(), report["env_steps"]))

    def notify(self, text: str, level: int = 20, detail: str = "") -> None:
        pass

    def close(self) -> None:
        pass

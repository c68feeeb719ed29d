"""A run of `cartpole` on Ray that goes on until the benchmark ends it."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError
from deploy.runs.metrics import read_metrics

ENDLESS = (
    *("--stop.score", "none", "--stop.env-steps", "none", "--stop.learner-steps", "none"),
    *("--evaluation.every-learner-steps", "1000000"),
    *("--checkpoint.every-s", "none", "--checkpoint.every-learner-steps", "none"),
)
WARM_UP_STEPS = 1_000
POLL_S = 0.2
Process = subprocess.Popen[str]
CommandStarter = Callable[..., Process]
"""Starts `raydqn` with arguments; `output` is the file descriptor for its output."""


@contextmanager
def endless_run(start: CommandStarter, *options: str) -> Iterator[tuple[Path, Process]]:
    """A run of `cartpole` on Ray that learns until the block ends: its folder, and its process."""
    with tempfile.TemporaryDirectory() as folder:
        run, log = Path(folder, "run"), Path(folder, "log")
        command = ("train", "cartpole", "--run-dir", str(run), *ENDLESS, *options)
        # The output goes to a file, because a pipe without a reader would fill up.
        with log.open("w") as output, start(*command, output=output.fileno()) as process:
            try:
                wait_for_steps(run, WARM_UP_STEPS, process)
                yield run, process
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()


def wait_for_steps(run: Path, steps: int, process: Process) -> None:
    """Wait until the learner has taken so many steps."""
    while process.poll() is None:
        with suppress(UserError):  # no report yet
            if newest_steps(run)[1] >= steps:
                return
        time.sleep(POLL_S)
    raise UserError("raydqn train: the run ended before the measurement")


def newest_steps(run: Path) -> tuple[float, int]:
    """The time of the newest report, and its learner steps."""
    report = read_metrics(run)[-1]
    return report["wall_s"], report["learner_steps"]

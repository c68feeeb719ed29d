"""A run of `cartpole` on Ray that lasts until the benchmark ends it."""

from __future__ import annotations

import math
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from common.errors import UserError
from common.polling import poll_until
from deploy.runs.metrics_file import read_metrics

ENDLESS = (
    *("--stop.score", "none", "--stop.env-steps", "none", "--stop.learner-steps", "none"),
    *("--evaluation.every-learner-steps", "1000000"),
    *("--checkpoint.every-s", "none", "--checkpoint.every-learner-steps", "none"),
)
WARM_UP_STEPS = 1_000
POLL_S = 0.2
T = TypeVar("T")
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

    def reached() -> bool:
        with suppress(UserError):  # no report yet
            return newest_steps(run)[1] >= steps
        return False

    wait_until(reached, process)


def wait_until(look: Callable[[], T | None], process: Process) -> T:
    """Poll until the result counts as true, and return it.

    Raises:
        UserError: the run ended before.
    """

    def look_unless_ended() -> T | None:
        if process.poll() is not None:
            raise UserError("raydqn train: the run ended before the measurement")
        return look()

    found = poll_until(look_unless_ended, math.inf, POLL_S)
    assert found is not None
    return found


def newest_steps(run: Path) -> tuple[float, int]:
    """The time of the newest report, and its learner steps."""
    report = read_metrics(run)[-1]
    return report["wall_s"], report["learner_steps"]

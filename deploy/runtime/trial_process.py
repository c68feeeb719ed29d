"""The process of one trial of a study: `raydqn train` in a run folder, on cores of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config_sections import StopConfig
from common.errors import UserError, shorten, without_colours
from common.polling import poll_until
from deploy.runs.folder import SUMMARY, RunFolder
from deploy.runs.metrics_file import last_report
from deploy.runtime.cores import own_cores

FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"
"""The ends of the process of a trial."""
STOPPED_CODES = (75, 130)
"""Exit codes of a run that a signal stopped: the same command continues it."""
LOOK_EVERY_S = 0.25
SAVED_WITHIN_S = 120.0
"""Time that a run has to save itself, before it is killed."""
TAIL_BYTES = 1 << 14
OUTER = "RAYDQN_STUDY_ENVIRONMENT"
"""Holds the environment variables of the study's command that Ray changes for its workers."""
CHANGED_BY_RAY = ("RAY_", "OMP_", "MKL_", "CUDA_", "TUNE_", "PYTHON")
"""First letters of these variables."""
PROGRAM = """
import ctypes, os, runpy, signal, sys
parent, cores, root = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: save and end with the parent
if os.getppid() != parent:
    sys.exit(75)
if cores:
    os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
sys.path.insert(0, root)
sys.argv[:] = ["raydqn", *sys.argv[4:]]
runpy.run_module("deploy", run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class TrialCommand:
    """The process that one trial runs.

    Attributes:
        name: of the trial.
        words: of `raydqn`, from the command on.
        run: the run folder.
        log: file that its output is appended to.
        stop: a file that asks for a clean end when it appears.
        folder: the working folder.
        cores: for it alone; 0: it shares all.
        every_env_steps: longest distance of two results.
        last_env_steps: where the run ends: from there on, its end is the next result.
    """

    name: str
    words: tuple[str, ...]
    run: Path
    log: Path
    stop: Path
    folder: Path
    cores: int = 0
    every_env_steps: float = float("inf")
    last_env_steps: float = float("inf")


@dataclass(slots=True)
class TrialProcess:
    """Starts the process of a trial, and watches the reports of its run."""

    command: TrialCommand
    _process: subprocess.Popen[bytes] | None = None
    _held: ExitStack = field(default_factory=ExitStack)
    _seen: dict[str, Any] = field(default_factory=dict)
    _is_stopping: bool = False

    def next_result(self) -> dict[str, Any]:
        """Wait for a new score, for `every_env_steps`, or for the end.

        Returns:
            `env_steps`, with `score` and `best_score` from the first evaluation on; `done` and
            `outcome`, which is empty until the process has ended; `error`, one line.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        while True:
            code = self._process.poll()
            numbers = numbers_of(last_report(self.command.run))
            if code is not None:
                self._held.close()
                outcome, error = self._end(code)
                return {**numbers, "done": True, "outcome": outcome, "error": error}
            if self.command.stop.exists():
                self._request_stop()
            elif self._is_news(numbers):
                self._seen = numbers
                return {**numbers, "done": False, "outcome": "", "error": ""}
            time.sleep(LOOK_EVERY_S)

    def stop(self) -> None:
        """Have the run save itself, and wait for the end of its process."""
        if self._process is None or self._process.poll() is not None:
            self._held.close()
            return
        self._request_stop()
        try:
            self._process.wait(SAVED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._held.close()

    def _start(self) -> None:
        command = self.command
        # The process of an interrupted study may still be saving this run.
        poll_until(lambda: not _is_running(command.run), SAVED_WITHIN_S, LOOK_EVERY_S)
        cores: Iterable[int] = ()
        if command.cores:
            cores = self._held.enter_context(own_cores(command.cores))
        root = Path(__file__).resolve().parents[2]
        pinned = ",".join(map(str, cores))
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(os.getpid()), pinned, str(root),
                 *command.words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=command.folder, env=outer_environment(max(1, command.cores)),
                start_new_session=True,  # Ray may kill the group of a worker that has ended
            )  # fmt: skip

    def _request_stop(self) -> None:
        if not self._is_stopping and self._process is not None:
            self._is_stopping = True
            self._process.send_signal(signal.SIGTERM)

    def _is_news(self, numbers: Mapping[str, Any]) -> bool:
        if "score" not in numbers or numbers["env_steps"] >= self.command.last_env_steps:
            return False
        ahead = numbers["env_steps"] - self._seen.get("env_steps", 0)
        is_new = numbers["score"] != self._seen.get("score")
        return is_new or bool(ahead >= self.command.every_env_steps)

    def _end(self, code: int) -> tuple[str, str]:
        """The outcome of the process, and the line of its error."""
        if code == 0:
            return FINISHED, ""
        if code in STOPPED_CODES or (self._is_stopping and code == -signal.SIGTERM):
            # A signal may come after a stop condition: the run is over all the same.
            return (FINISHED if _has_finished(self.command.run) else INTERRUPTED), ""
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return FAILED, (_error_line(self.command) if code > 0 else "") or how


def numbers_of(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """Env steps and scores of a report; a score that is not known is left out."""
    if report is None:
        return {"env_steps": 0}
    kept = ("env_steps", "score", "best_score", "wall_s")
    return {name: report[name] for name in kept if report.get(name) is not None}


def outer_settings() -> dict[str, str]:
    """A variable for Ray's processes that keeps those of this one; see `outer_environment`."""
    kept = {name: os.environ[name] for name in os.environ if name.startswith(CHANGED_BY_RAY)}
    return {OUTER: json.dumps(kept)}


def outer_environment(threads: int) -> dict[str, str]:
    """The environment of the study's command, in a worker of the Ray that it started.

    Args:
        threads: of numerical libraries, unless the command's environment says otherwise.
    """
    inner = dict(os.environ)
    given = inner.pop(OUTER, None)
    if given is None:
        return inner
    rest = {name: inner[name] for name in inner if not name.startswith(CHANGED_BY_RAY)}
    return {"OMP_NUM_THREADS": str(threads), **rest, **json.loads(given)}


def _is_running(run: Path) -> bool:
    try:
        return RunFolder.open(run).is_running()
    except UserError:  # there is none yet
        return False


def _has_finished(run: Path) -> bool:
    """Whether the summary of a run names a stop condition."""
    reason = _summary(run).get("stop_reason")
    return reason is not None and reason in StopConfig.model_fields


def _summary(run: Path) -> dict[str, Any]:
    """The summary of a run; empty: there is none."""
    with suppress(OSError, ValueError):
        found = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _error_line(command: TrialCommand) -> str:
    """The line that says why a run failed: of its summary, else the last one that it printed."""
    error = _summary(command.run).get("error")
    if error:
        return shorten(str(error), 300)
    with suppress(OSError), command.log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        text = without_colours(file.read().decode("utf-8", "replace"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        ours = [line for line in lines if line.startswith("raydqn: ")]
        for line in [*ours[-1:], *lines[-1:]]:
            return shorten(re.sub(r"^raydqn: (error: )?", "", line), 300)
    return ""

"""Running the program as a user does: in processes of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import psutil
import torch

from common.checkpoint import CheckpointStore
from common.storage import open_storage
from deploy.cli.main import main
from deploy.runs.folder import CHECKPOINTS
from support.paths import ROOT

TINY = {
    "actors": {"count": 1, "envs": 4, "collect_steps": 8, "chunk_steps": 8},
    "replay": {"capacity": 2_000},
    "learner": {
        "batch_size": 32,
        "warmup_transitions": 100,
        "samples_per_insert": 4.0,
        "train_steps": 10,
        "publish_steps": 5,
        "target_sync_steps": 20,
    },
    "network": {"hidden": [32]},
    "evaluation": {"every_learner_steps": 100, "episodes": 2, "envs": 2},
    "report": {"every_s": 0.05},
}
"""A run that ends in a second or two."""

CALM = (
    *("--env.id", "deploy.bench.sleep_env:Sleep-v0", "--env.kwargs", "{step_s = 0.005}"),
    *("--evaluation.every-learner-steps", "1000000", "--learner.samples-per-insert", "4"),
    *("--stop.score", "none"),
)
"""Where it does not matter what is learnt: the cores are left to other tests."""

SHORT_RUN_S = 240.0
"""Until a short run has ended, or a long one begun: beside other tests Ray may need three tries."""

TINY_OPTIONS = [
    f"--{section}.{key.replace('_', '-')}={json.dumps(value)}"
    for section, values in TINY.items()
    for key, value in values.items()
]


def environment_without_ray() -> dict[str, str]:
    """Of this process, without what it says to Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@contextmanager
def running(
    *arguments: str,
    pythonpath: Path | None = None,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    own_group: bool = False,
):
    """`raydqn ARGUMENTS` as a process; whatever of it still lives at the end is killed.

    `own_group`: it leads a process group, as what a shell starts does.
    """
    path = os.pathsep.join(str(p) for p in (ROOT, pythonpath) if p)
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0 if own_group else None,
    )
    failed = None
    try:
        with process:
            try:
                yield process
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed = error
                raise
            finally:
                left = descendants(process) if process.poll() is None else []
                for child in left:
                    with suppress(psutil.Error):
                        child.kill()
                process.kill()
                if failed is not None:
                    with suppress(subprocess.TimeoutExpired, ValueError):  # read already
                        out, err = process.communicate(timeout=10)
                        failed.add_note(f"it had printed:\n{out[-2000:]}\n{err[-2000:]}")
    finally:
        psutil.wait_procs(left, timeout=10)


def raydqn(*arguments: str, pythonpath: Path | None = None, cwd: Path = ROOT):
    """`raydqn ARGUMENTS`, run to its end: (exit code, standard output, standard error)."""
    with running(*arguments, pythonpath=pythonpath, cwd=cwd) as process:
        out, err = process.communicate(timeout=SHORT_RUN_S)
    return process.returncode, out, err


def raydqn_here(*arguments: str):
    """The same in this process, which has imported everything, and gets no signal."""
    threads, path = torch.get_num_threads(), list(sys.path)
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = main(arguments)
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path
    return code, out.getvalue(), err.getvalue()


def summary_of(out: str) -> dict:
    """The JSON object that is the last line."""
    return json.loads(out.strip().splitlines()[-1])


def wait_for(condition, timeout_s: float = SHORT_RUN_S, poll_s: float = 0.1, what="it"):
    """Wait until `condition()` is true, and return its value.

    `what`, or what it returns when the time is over, stands in the error.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(poll_s)
    what = what() if callable(what) else what
    raise AssertionError(f"{what} did not come true within {timeout_s} s")


_read: dict[Path, tuple[int, int, list[dict]]] = {}  # file, bytes, reports that they hold


def reports_in(run: Path) -> list[dict]:
    """Whole lines of metrics.jsonl so far; each is read once, however often that is asked."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    with path.open("rb") as file:
        number = os.fstat(file.fileno()).st_ino
        known, begin, reports = _read.get(path, (number, 0, []))
        if known != number:  # another file
            begin, reports = 0, []
        file.seek(begin)
        lines = [line for line in file.read().splitlines(keepends=True) if line[-1:] == b"\n"]
    reports += map(json.loads, lines)
    _read[path] = (number, begin + sum(map(len, lines)), reports)
    return list(reports)


def checkpoints_in(run: Path) -> CheckpointStore:
    """The checkpoints of a run, as another program finds them."""
    return CheckpointStore(open_storage(str(run / CHECKPOINTS)), 3)


def learner_steps_in(run: Path) -> int:
    """Learner steps of the newest report."""
    reports = reports_in(run)
    return reports[-1]["learner_steps"] if reports else 0


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    """Every process that came from this one."""
    return psutil.Process(process.pid).children(recursive=True)


def command_of(process: psutil.Process) -> list[str]:
    """The words of its command line; none of a process that has ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def remotes_named(process: subprocess.Popen, name: str) -> list[psutil.Process]:
    """Processes of the remotes whose title names them, e.g. `ray::actor-0-0`."""
    return [
        child
        for child in descendants(process)
        if " ".join(command_of(child)).startswith(f"ray::{name}")
    ]


def assert_all_gone(processes: list[psutil.Process]) -> None:
    """No orphan is left (a few seconds are granted to die)."""
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not alive, [command_of(one) for one in alive]


def interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)


def contents_of(checkpoint) -> dict[str, str]:
    """Checksums of everything but the state, which holds durations."""
    name = checkpoint.name
    return {
        path.removeprefix(f"{name}/"): entry["sha256"]
        for path, entry in checkpoint.files.items()
        if not path.endswith("state.json")
    }

"""The folder of a run.

runs/cartpole-20260101-120000/
    config.toml       the whole configuration
    metrics.jsonl     one JSON object per report
    events.out.tf…    the same for TensorBoard
    best.safetensors  weights of the best evaluation
    checkpoints/
    summary.json      how the run ended; missing while it lasts, and if its driver was killed
    status.json       host, state and rate of each part, as they were last
    run.log           every event with its time and cause (see deploy.runs.log)
    control.toml      a change that the run has not applied yet (see deploy.control.control_file)
    lives             number of attempts (starts and resumes)
    attempts.jsonl    command, versions and machine of each attempt (see deploy.runs.attempts)
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from common import wire
from common.checkpoint import CheckpointStore
from common.config import Config
from common.config_errors import COMMAND_LINE, Spelling
from common.config_toml import build, load_toml, merge, to_toml
from common.errors import UserError
from common.storage import open_storage, write_atomically
from common.tensor_file import tensor_bytes
from common.types import Array, EvaluationReport
from deploy.runs import records
from deploy.runs.checkpoint_schema import RanOn, check_state
from deploy.runs.disk import Disk
from deploy.runs.json_values import without_nan
from deploy.runs.log import FILES as LOG_FILES
from deploy.runs.log import last_events
from deploy.runs.no_run import no_run

CONFIG = "config.toml"
BEST, METRICS, SUMMARY = records.BEST, records.METRICS, records.SUMMARY
ATTEMPT_RECORDS = records.ATTEMPT_RECORDS
ATTEMPTS = "lives"  # file format: folders of every version have it
LOCK, CHECKPOINTS = ".lock", "checkpoints"
CONTROL, REPLY, STATUS, LOG = "control.toml", "control.answer", "status.json", "run.log"
NEWER = ("security",)
"""Tables of the configuration that runs of the first versions did not record."""
LOGS = frozenset({LOG, *(f"{LOG}.{number}" for number in range(1, LOG_FILES))})
"""The newest file of the log, and those before it."""
UNUSED = frozenset(
    {CONFIG, ATTEMPTS, ATTEMPT_RECORDS, LOCK, METRICS, CONTROL, REPLY, STATUS, SUMMARY, *LOGS}
)
"""Files of a run that ended before its first report; `metrics.jsonl` is empty then."""


class RunFolder:
    """Paths and files of one run.

    Attributes:
        disk: reads and writes the files of a run in progress.
        taken_over: the folder is that of an earlier start that failed; its log is kept.
    """

    def __init__(self, path: Path, config: Config) -> None:
        """The folder of an existing run; see `create` and `open`."""
        self.path = path
        self.config = config
        self.disk = Disk()
        self.ran_on: RanOn | None = None  # recorded in checkpoints, for a resume
        storage = config.checkpoint.storage
        # Absolute, because shards on other nodes write there too.
        url = str((path / CHECKPOINTS).absolute())
        if storage is not None:
            url = f"{storage.rstrip('/')}/{path.name}"
        self.checkpoints = CheckpointStore(
            open_storage(url), config.checkpoint.keep, check_state, config.checkpoint.replay
        )
        self.records = records.RecordsCopy(
            path, self.checkpoints.storage if storage is not None else None
        )
        self.taken_over = False
        self._made = False  # this object created the folder itself

    @classmethod
    def create(cls, path: Path, config: Config, restart: bool = False) -> RunFolder:
        """A new run folder, or that of a start that failed, without its files but the log.

        Args:
            path: of the folder.
            config: of the run.
            restart: the folder may be of a run that has no checkpoint. All its files are kept, and
                the caller saves the configuration when it holds the lock.

        Raises:
            UserError: the folder is not empty, or cannot be created.
        """
        if restart and is_run(path):
            folder = cls(path, config)
            folder.taken_over = True
            return folder
        check_free(path)
        made = not path.exists()
        taken_over = not made and _clear_failed_start(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _begin(path, to_toml(config).encode())
        except FileExistsError:
            raise _not_free(path) from None
        except OSError as error:
            raise UserError(f"--run-dir={path}: cannot be created ({error.strerror})") from None
        folder = cls(path, config)
        folder._made, folder.taken_over = made, taken_over
        return folder

    @classmethod
    def open(
        cls,
        path: Path,
        overrides: dict[str, Any] | None = None,
        spelling: Spelling = COMMAND_LINE,
    ) -> RunFolder:
        """An existing run, with some keys of its configuration replaced.

        Args:
            path: of the run.
            overrides: the new values, nested by section.
            spelling: of the overrides, in errors about them.

        Raises:
            UserError: not a run folder, or its configuration is damaged.
        """
        if not is_run(path):
            raise no_run(path, CONFIG)
        recorded = load_toml(path / CONFIG)
        missing = [name for name in Config.model_fields if name not in {*recorded, *NEWER}]
        if missing:
            raise UserError(
                f"{path / CONFIG}: has no {missing[0]}, the file is cut off; the state of every "
                "checkpoint holds the whole configuration"
            )
        values = merge(recorded, overrides or {})
        return cls(path, build(values, str(path / CONFIG), overrides, spelling))

    def discard_unless_used(self) -> None:
        """Remove a new run's folder if the run ended before its first report.

        A folder that was taken over stays: the log of the earlier start is in it. So does one
        whose disk hangs.
        """
        if self.disk.stuck_s or self.taken_over or not self.path.is_dir():
            return
        with suppress(UserError, OSError), self.lock():  # another process may have resumed it
            if not _is_unused(self.path):
                return
            _unlink_all(self.path, keep=())
            if self._made:
                with suppress(OSError):  # another process has put a file there
                    self.path.rmdir()

    def checkpoints_hang(self) -> bool:
        """Whether the checkpoints lie on a disk that hangs, as far as its last job shows."""
        return self.config.checkpoint.storage is None and self.disk.hangs

    def save_best(self, report: EvaluationReport) -> None:
        """Keep the weights of an evaluation."""
        assert report.weights is not None
        tensors, _ = wire.decode(report.weights)
        meta = {
            "score": repr(report.score),
            "episodes": str(len(report.returns)),
            "learner_steps": str(report.learner_steps),
            "version": str(report.version),
            "env_id": self.config.env.id,
        }
        write_atomically(self.path / BEST, tensor_bytes(tensors, meta))
        self.records.request()

    def best_score(self) -> float | None:
        """Score of the kept weights; None if there are none, or the file cannot be read."""
        try:
            best = self.load_best()
            return float(best[1]["score"]) if best is not None else None
        except (UserError, KeyError, ValueError):
            return None

    def load_best(self) -> tuple[Array, dict[str, str]] | None:
        """Weights (wire format) and their metadata; None before the first evaluation.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / BEST
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as file:
                meta = file.metadata() or {}
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        steps = meta.get("learner_steps", "")
        if not steps.isdigit():
            raise UserError(f"{path}: its metadata lacks learner_steps")
        return wire.encode(tensors, {"learner_steps": int(steps)}), meta

    def new_attempt(self, least: int = 0) -> int:
        """Number of earlier attempts; a file counts them, so that each attempt has its own number.

        Args:
            least: a lower bound from a checkpoint, for a folder whose file is lost.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / ATTEMPTS
        text = path.read_text(errors="replace").strip() if path.is_file() else "0"
        if not text.isdecimal():
            raise UserError(
                f"{path}: holds {text!r}; must be a whole number, the number of attempts"
            )
        attempts = max(int(text), least)
        write_atomically(path, str(attempts + 1).encode())
        return attempts

    def save_config(self, config: Config) -> None:
        """Record a configuration; a resume starts with it."""
        write_atomically(self.path / CONFIG, to_toml(config).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing into the folder, until the last job of `disk` is over.

        Raises:
            UserError: another process holds the lock.
        """
        try:
            opened = (self.path / LOCK).open("w")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.path}: another process is running it") from None
            yield
        finally:
            self.disk.submit(opened.close, name="lock")

    def is_running(self) -> bool:
        """Whether a process holds the lock: the run is in progress."""
        return is_locked(self.path)

    def write_status(self, status: dict[str, Any]) -> None:
        """Write the status; a failed write is ignored, because the next one follows soon."""
        with suppress(OSError):
            write_atomically(self.path / STATUS, json.dumps(without_nan(status)).encode())

    def read_log(self) -> dict[str, Any]:
        """`log`: path of the run's log, None if there is none; `events`: the last ones in it.

        Events of level DEBUG are left out. A log that cannot be read counts as none.
        """
        path, there = self.path / LOG, False
        with suppress(OSError):  # of a disk that fails: the supervisor must not stop for it
            there = path.is_file()
        events = last_events(path, least=logging.INFO)
        return {"log": str(path) if there else None, "events": events}

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record how the run ended; NaN becomes null."""
        write_atomically(self.path / SUMMARY, json.dumps(without_nan(summary), indent=1).encode())

    def forget_end(self) -> None:
        """Remove the record of how the attempt before ended: another one begins."""
        with suppress(OSError):  # there is none, or the disk fails: that ends no run
            (self.path / SUMMARY).unlink()


def check_free(path: Path) -> None:
    """Refuse a folder for a new run that holds anything but the files of a start that failed.

    Raises:
        UserError: the folder is not free.
    """
    if path.exists() and not _is_empty(path) and not _failed_to_start(path):
        raise _not_free(path)


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing, but a lock that no process holds: its start was killed."""
    names = {child.name for child in path.iterdir()} if path.is_dir() else None
    return names == set() or (names == {LOCK} and not is_locked(path))


def _begin(path: Path, config: bytes) -> None:
    """Write the configuration of a new run; FileExistsError: another start was first."""
    with (path / LOCK).open("a") as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(file.fileno()), (path / LOCK).stat())  # not removed
        if mine and not (path / CONFIG).exists():
            return write_atomically(path / CONFIG, config)
    raise FileExistsError


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    try:
        with (path / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError) as error:
        return isinstance(error, BlockingIOError)
    return False


def _failed_to_start(path: Path) -> bool:
    """Whether a folder is that of a run that began and ended before its first report."""
    try:
        # The count of attempts is written under the lock: without it, a run is about to begin.
        if not (path / ATTEMPTS).is_file() or not is_run(path) or not _is_unused(path):
            return False
        folder = RunFolder.open(path)
        return not folder.is_running() and not folder.checkpoints.names()
    except (UserError, OSError):  # its checkpoints, which may be elsewhere, cannot be listed
        return False


def _is_unused(path: Path) -> bool:
    """Whether a folder has no report, no checkpoint, and no file that a run does not write."""
    metrics = path / METRICS
    names = {child.name for child in path.iterdir()}
    return not names - UNUSED and not (metrics.is_file() and metrics.stat().st_size > 0)


def _clear_failed_start(path: Path) -> bool:
    """Remove the files of a start that failed, but its log; False: there is none.

    Raises:
        UserError: a process has begun to run in the folder.
    """
    if not _failed_to_start(path):
        return False
    with RunFolder.open(path).lock():
        # Looked at again: of two commands that take the folder over, the second finds it taken.
        if not (path / ATTEMPTS).is_file() or not _is_unused(path):
            raise _not_free(path)
        _unlink_all(path, keep=LOGS)
    return True


def _unlink_all(path: Path, keep: Collection[str]) -> None:
    """Remove the files of a locked folder, the lock last: it protects the others."""
    names = {child.name for child in path.iterdir()} - set(keep)
    for name in sorted(names, key=LOCK.__eq__):
        (path / name).unlink()


def check_unused(path: Path, config: Config) -> None:
    """Refuse a new run whose checkpoints would be stored among those of another run.

    Args:
        path: folder of the new run; its name is the run's name.
        config: of the run.

    Raises:
        UserError: `checkpoint.storage` holds a run of that name, or cannot be read.
    """
    if config.checkpoint.storage is None:  # the run folder holds them
        return
    store = RunFolder(path, config).checkpoints
    url = store.storage.url
    try:
        used = bool(store.names())
    except OSError as error:
        raise UserError(f"checkpoint.storage: {url} cannot be read ({error})") from None
    if used:
        raise UserError(
            f"checkpoint.storage: {url} holds checkpoints of another run already; name another "
            "--run-dir or checkpoint.storage, or resume that run"
        )


def _not_free(path: Path) -> UserError:
    hint = "name another, or resume it" if is_run(path) else "name another"
    return UserError(f"--run-dir={path}: is not an empty folder; {hint}")


def is_run(path: Path) -> bool:
    """Whether a path is a readable run folder."""
    try:
        return (path / CONFIG).is_file()
    except OSError:
        return False

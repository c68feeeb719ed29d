"""The run folder and what is written into it while the run goes on.

runs/cartpole-20260101-120000/
    config.toml       the whole configuration
    metrics.jsonl     one JSON object per report
    events.out.tf…    the same for TensorBoard
    best.safetensors  weights of the best evaluation
    checkpoints/
    summary.json      how it ended
    status.json       which part lives where, while it goes on
    control.toml      a change that the run has not taken yet (see deploy.control.file)
"""

from __future__ import annotations

import fcntl
import json
import math
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from common import wire
from common.checkpoint import CheckpointStore
from common.config import Config, build, load_toml, merge, to_toml
from common.errors import UserError
from common.storage import open_storage, write_atomically
from common.types import Array, EvaluationReport
from deploy.runs.checkpoint_schema import check_state

if TYPE_CHECKING:  # not before the start: its import takes a while
    from tensorboard.summary.writer.record_writer import RecordWriter

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
BEST = "best.safetensors"
SUMMARY = "summary.json"
LIVES = "lives"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
CONTROL = "control.toml"
ANSWER = "control.answer"
STATUS = "status.json"


REQUIRED = frozenset(
    (
        *("wall_s", "env_steps", "learner_steps", "env_steps_per_s", "learner_steps_per_s"),
        *("samples_per_insert", "score", "loss", "epsilon", "episodes"),
    )
)
"""Keys that every report has, and that pictures are drawn from."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path, config: Config) -> None:
        """Of a run that exists; see `create` and `open`."""
        self.path = path
        self.config = config
        storage = config.checkpoint.storage
        # Shards write there too, from wherever they live.
        url = str((path / CHECKPOINTS).absolute())
        if storage is not None:
            url = f"{storage.rstrip('/')}/{path.name}"
        self.checkpoints = CheckpointStore(
            open_storage(url), config.checkpoint.keep, check_state, config.checkpoint.replay
        )
        self._made = False  # the folder itself, by this object

    @classmethod
    def create(cls, path: Path, config: Config) -> RunFolder:
        """A new run.

        Raises:
            UserError: the folder already holds something, or cannot be made.
        """
        check_free(path)
        made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / LOCK).touch(exist_ok=False)  # of two that begin here at once, one gets through
            write_atomically(path / CONFIG, to_toml(config).encode())
        except FileExistsError:
            raise _not_free(path) from None
        except OSError as error:
            raise UserError(f"--run-dir={path}: cannot be made ({error.strerror})") from None
        folder = cls(path, config)
        folder._made = made
        return folder

    @classmethod
    def open(cls, path: Path, overrides: dict[str, Any] | None = None) -> RunFolder:
        """A run that exists, with some keys of its configuration replaced.

        Raises:
            UserError: not a run folder.
        """
        if not is_run(path):
            raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
        recorded = load_toml(path / CONFIG)
        missing = [name for name in Config.model_fields if name not in recorded]
        if missing:
            raise UserError(
                f"{path / CONFIG}: has no {missing[0]}: it was cut off; every checkpoint's state "
                "holds the whole configuration"
            )
        values = merge(recorded, overrides or {})
        return cls(path, build(values, str(path / CONFIG)))

    def discard_unless_used(self) -> None:
        """Take a new run's folder away again if the run ended before its first report."""
        if not self.path.is_dir():
            return
        with suppress(UserError, OSError), self.lock():  # another process may have gone on with it
            metrics = self.path / METRICS
            names = {path.name for path in self.path.iterdir()}
            if names - {CONFIG, LIVES, LOCK, METRICS, CONTROL, ANSWER, STATUS} or (
                metrics.is_file() and metrics.stat().st_size > 0
            ):
                return
            for name in sorted(names, key=LOCK.__eq__):  # the lock last: until then it is ours
                (self.path / name).unlink()
            if self._made:
                with suppress(OSError):  # somebody else's by now
                    self.path.rmdir()

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
        # In wire format they are contiguous, as safetensors needs them.
        write_atomically(self.path / BEST, save_tensors(tensors, meta))

    def load_best(self) -> tuple[Array, dict[str, str]] | None:
        """Weights (wire format) and what is known of them; None if nothing was evaluated yet.

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
            raise UserError(f"{path}: does not say of which learner step it is")
        return wire.encode(tensors, {"learner_steps": int(steps)}), meta

    def new_attempt(self, least: int = 0) -> int:
        """How often this run was started before; counted in a file, so that no two are alike.

        Args:
            least: so often it was for certain, whatever the file says: it may be gone.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / LIVES
        text = path.read_text(errors="replace").strip() if path.is_file() else "0"
        if not text.isdecimal():
            raise UserError(
                f"{path}: holds {text!r}; must be a whole number, how often the run was started"
            )
        lives = max(int(text), least)
        write_atomically(path, str(lives + 1).encode())
        return lives

    def save_config(self) -> None:
        """Record the configuration that the run goes on with."""
        write_atomically(self.path / CONFIG, to_toml(self.config).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time may write into the folder.

        Raises:
            UserError: another one does.
        """
        try:
            opened = (self.path / LOCK).open("w")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.path}: another process is running it") from None
            yield

    def is_running(self) -> bool:
        """Whether a process holds the lock: the run goes on."""
        try:
            with (self.path / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def write_status(self, status: dict[str, Any]) -> None:
        """Which part lives where; what cannot be written now is soon written again."""
        with suppress(OSError):
            write_atomically(self.path / STATUS, json.dumps(_finite(status)).encode())

    def read_status(self) -> dict[str, Any]:
        """What the run wrote last.

        Raises:
            UserError: it has written nothing yet, or the file is none of ours.
        """
        path = self.path / STATUS
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.path}: has no status yet; it comes with the first report"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        if not isinstance(status, dict):
            raise UserError(f"{path}: is no status of a run")
        return status

    def read_ended(self) -> dict[str, Any]:
        """What `read_status` tells, with how the run ended, if it did; see there for errors."""
        status = self.read_status()
        with suppress(OSError, ValueError):
            summary = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
            if isinstance(summary, dict):
                kept = ("stop_reason", "score", "env_steps", "learner_steps", "wall_s")
                status |= {key: summary[key] for key in kept if key in summary}
        return status

    def write_summary(self, summary: dict[str, Any]) -> None:
        """How the run ended."""
        write_atomically(self.path / SUMMARY, json.dumps(summary, indent=1).encode())


def check_free(path: Path) -> None:
    """Refuse a folder for a new run that holds something already.

    Raises:
        UserError: it does.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _not_free(path)


def check_unused(path: Path, config: Config) -> None:
    """Refuse a new run whose checkpoints would lie among those of another.

    Args:
        path: its folder to be; its name is that of the run.
        config: of the run.

    Raises:
        UserError: `checkpoint.storage` holds a run of that name, or cannot be read.
    """
    if config.checkpoint.storage is None:  # they lie in the run folder
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
    wish = "name an empty one, or resume it" if is_run(path) else "name an empty one"
    return UserError(f"--run-dir={path}: already holds something; {wish}")


def is_run(path: Path) -> bool:
    """Whether a folder is one of ours, and ours to read."""
    try:
        return (path / CONFIG).is_file()
    except OSError:
        return False


class MetricsWriter:
    """Appends reports to metrics.jsonl and to TensorBoard's event file.

    A report that cannot be written is lost, and the run goes on: see `write`.
    """

    def __init__(self, folder: Path) -> None:
        """After what an earlier part of the run wrote."""
        self._folder = folder
        self._path = folder / METRICS
        self._board: RecordWriter | None = None
        # A run that was killed: its last line must not swallow the next one.
        self._cut_off = self._path.is_file() and self._path.read_bytes()[-1:] not in (b"", b"\n")

    def write(self, report: dict[str, Any]) -> None:
        """One line, at once: a reader sees whole lines only. NaN is written as null.

        Raises:
            OSError: the disk is full, or not to be written; the next report may get through.
        """
        clean = {key: _finite(value) for key, value in report.items()}
        line = json.dumps(clean, allow_nan=False) + "\n"
        before, self._cut_off = self._cut_off, True
        with self._path.open("ab", buffering=0) as file:
            file.write((("\n" if before else "") + line).encode())
        self._cut_off = False
        self._write_event(clean)

    def _write_event(self, report: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in report.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        now = time.time()
        event = Event(wall_time=now, step=report["learner_steps"], summary=Summary(value=values))
        if self._board is None:
            name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}"
            self._board = RecordWriter((self._folder / name).open("wb", buffering=0))
            self._board.write(
                Event(wall_time=now, file_version="brain.Event:2").SerializeToString()
            )
        try:
            self._board.write(event.SerializeToString())
        except OSError:
            self._board = None  # a record that is cut off ends its file; the next begins another
            raise

    def close(self) -> None:
        """Nothing more will come."""
        if self._board is not None:
            self._board.close()


def _finite(value: Any) -> Any:
    """NaN and infinities as None, at any depth: they are not JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return value


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The reports of a run; a last line that is cut off is left out.

    Raises:
        UserError: not a run folder, or no report yet.
    """
    if not is_run(folder):
        raise UserError(f"{folder}: not a run folder (it has no {CONFIG})")
    reports = list(_lines(folder / METRICS))
    if not reports:
        raise UserError(f"{folder}: has no reports yet")
    return reports


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            report = json.loads(line)
            if isinstance(report, dict) and report.keys() >= REQUIRED:
                yield report


MIN_RATE_S = 0.1
"""Over less time a rate says more about the clock than about the run."""


class Rate:
    """Events per second over the last seconds."""

    def __init__(self, window_s: float = 10.0) -> None:
        """Forgets what is older than `window_s`."""
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, count: float) -> None:
        """`count` is the running total at `now_s`."""
        self._points.append((now_s, count))

    def per_s(self, now_s: float) -> float:
        """Mean rate over the window; falls while nothing happens.

        Where counts come farther apart than the window, the window spans the last two of them.
        """
        points = self._points
        apart_s = points[-1][0] - points[-2][0] if len(points) > 1 else 0.0
        begin_s = now_s - max(self._window_s, 2 * apart_s)
        # The last point before the window stays: it says where the count stood at its beginning.
        while len(points) > 1 and points[1][0] <= begin_s:
            points.popleft()
        if not points:
            return 0.0
        (t0, c0), (_, c1) = points[0], points[-1]
        return (c1 - c0) / (now_s - t0) if now_s - t0 >= MIN_RATE_S else 0.0

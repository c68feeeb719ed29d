"""Reports of a run: written as they come, and read back; rates between them."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from deploy.runs.folder import CONFIG, METRICS, is_run
from deploy.runs.json_values import without_nan
from deploy.runs.no_run import no_run

if TYPE_CHECKING:  # imported with the first report: TensorBoard takes a while
    from tensorboard.summary.writer.record_writer import RecordWriter

REQUIRED = frozenset(
    (
        *("wall_s", "env_steps", "learner_steps", "env_steps_per_s", "learner_steps_per_s"),
        *("samples_per_insert", "score", "loss", "epsilon", "episodes"),
    )
)
"""Keys that every report has; plots need them."""
TAIL_BYTES = 1 << 14
"""A report is shorter, unless hundreds of episodes ended since the one before."""
RECENT_BYTES = 1 << 18
MIN_RATE_S = 0.1
"""Shortest interval that a rate is computed over; below it, clock noise dominates."""


class MetricsWriter:
    """Appends reports to metrics.jsonl and to TensorBoard's event file.

    A report that cannot be written is lost, and the run continues; see `write`.
    """

    def __init__(self, folder: Path) -> None:
        """A writer that appends to the reports of earlier attempts.

        Args:
            folder: of the run.
        """
        self._folder = folder
        self._path = folder / METRICS
        self._events: RecordWriter | None = None
        # A killed run may have left half a line, which must not swallow the next one.
        self._cut_off = _last_byte(self._path) not in (b"", b"\n")

    def write(self, report: dict[str, Any]) -> None:
        """Append one line at once, so that a reader sees whole lines only; NaN becomes null.

        Raises:
            OSError: the disk is full or read-only; a later report may be written again.
        """
        clean = {key: without_nan(value) for key, value in report.items()}
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
        if self._events is None:
            name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}"
            self._events = RecordWriter((self._folder / name).open("wb", buffering=0))
            self._events.write(
                Event(wall_time=now, file_version="brain.Event:2").SerializeToString()
            )
        try:
            self._events.write(event.SerializeToString())
        except OSError:
            self._events = None  # a cut-off record ends its file; the next report starts another
            raise

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()


def _last_byte(path: Path) -> bytes:
    """The last byte of a file; none where it is empty, or there is no file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The reports of a run, without a last line that is cut off.

    Raises:
        UserError: not a run folder, or no report yet.
    """
    if not is_run(folder):
        raise no_run(folder, CONFIG)
    reports = list(_lines(folder / METRICS))
    if not reports:
        raise UserError(f"{folder}: has no reports yet")
    return reports


def last_report(folder: Path) -> dict[str, Any] | None:
    """The newest report of a run, read from the end of the file; None if there is none."""
    path = folder / METRICS
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = TAIL_BYTES
        while size:
            file.seek(max(0, size - length))
            lines = file.read(length).decode("utf-8", "replace").splitlines()
            # The first piece may be the end of a line, which is no report.
            for line in reversed(lines):
                report = _report_in(line)
                if report is not None:
                    return report
            if length >= size:
                break
            length *= 8
    return None


def recent_reports(folder: Path) -> list[dict[str, Any]]:
    """The newest reports of a run, of about two minutes; empty if there is none."""
    with suppress(OSError), (folder / METRICS).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - RECENT_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
        return [report for report in map(_report_in, lines) if report is not None]
    return []


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        report = _report_in(line)
        if report is not None:
            yield report


def _report_in(line: str) -> dict[str, Any] | None:
    """The report that a line holds; None if it is cut off, or no report."""
    with suppress(ValueError):
        report = json.loads(line)
        if isinstance(report, dict) and report.keys() >= REQUIRED:
            return report
    return None


class Rate:
    """Events per second over the last seconds.

    A total that falls, since a part was restored from a checkpoint, counts as no event.

    Attributes:
        increase: events since the first point.
    """

    def __init__(self, window_s: float = 10.0) -> None:
        """A rate without data.

        Args:
            window_s: seconds that the mean covers.
        """
        self._window_s = window_s
        self.increase = 0.0
        self._count: float | None = None
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, count: float) -> None:
        """Add a point: the running total is `count` at `now_s`."""
        if self._count is not None:
            self.increase += max(0.0, count - self._count)
        self._count = count
        self._points.append((now_s, self.increase))

    def per_s(self, now_s: float) -> float:
        """The mean rate over the window; it falls while no event happens.

        Where points come farther apart than the window, the window spans the last two of them.
        """
        points = self._points
        apart_s = points[-1][0] - points[-2][0] if len(points) > 1 else 0.0
        begin_s = now_s - max(self._window_s, 2 * apart_s)
        # The last point before the window stays: it holds the count at the window's start.
        while len(points) > 1 and points[1][0] <= begin_s:
            points.popleft()
        if not points:
            return 0.0
        (t0, c0), (_, c1) = points[0], points[-1]
        return (c1 - c0) / (now_s - t0) if now_s - t0 >= MIN_RATE_S else 0.0

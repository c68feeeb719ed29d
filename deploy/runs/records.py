"""Copies of a run's records in its checkpoint storage: they outlive the machine of the run.

`checkpoint.storage` holds, beside the checkpoints of a run, its best weights, metrics, log,
records of attempts and summary in `records/`.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.storage import Storage, write_atomically
from common.tensor_file import tensor_metadata

FOLDER = "records"
BEST, METRICS, SUMMARY = "best.safetensors", "metrics.jsonl", "summary.json"
ATTEMPT_RECORDS = "attempts.jsonl"
_RECORD = re.compile(
    "|".join(map(re.escape, (BEST, METRICS, SUMMARY, ATTEMPT_RECORDS)))
    + r"|run\.log(\.\d)?|events\.out\.tfevents\.[\w.-]+",
    re.ASCII,
)
"""Names of the files that are copied."""
MAX_SHARE = 0.05
"""Of the time is spent on copies, at the most: metrics of a long run are large."""


class RecordsCopy:
    """Copies the records that have changed, in a thread: a slow storage delays no training.

    Attributes:
        failed: called, in that thread, with one line when copies begin to fail.
    """

    def __init__(self, folder: Path, storage: Storage | None) -> None:
        """Nothing is copied yet.

        Args:
            folder: of the run.
            storage: of its checkpoints; None: the run folder holds them, and nothing is copied.
        """
        self.failed: Callable[[str], None] = lambda line: None
        self._folder = folder
        self._storage = storage
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of change, by name
        self._changed = threading.Condition()
        self._requested = self._ending = self._failing = False
        self._thread: threading.Thread | None = None

    def restore(self) -> None:
        """See `restore_records`; without a storage there is nothing to do."""
        if self._storage is not None:
            restore_records(self._storage, self._folder)

    def request(self) -> None:
        """Copy what has changed, soon."""
        if self._storage is None:
            return
        with self._changed:  # several threads may ask
            self._requested = True
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="records", daemon=True)
                self._thread.start()

    def finish(self, timeout_s: float) -> bool:
        """Copy what has changed, and end; whether it is all copied after at most `timeout_s`."""
        self.request()
        if self._thread is None:
            return True
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(timeout_s)
        is_over, self._thread = not self._thread.is_alive(), None
        return is_over and not self._failing

    def _work(self) -> None:
        rest_until_s = 0.0
        while True:
            with self._changed:
                while not (self._requested or self._ending):
                    self._changed.wait()
                if not self._ending:
                    self._changed.wait_for(lambda: self._ending, rest_until_s - time.monotonic())
                ending, self._requested = self._ending, False
            begin_s = time.monotonic()
            self._copy_all()
            if ending:
                return
            end_s = time.monotonic()
            rest_until_s = end_s + (end_s - begin_s) / MAX_SHARE

    def _copy_all(self) -> None:
        assert self._storage is not None
        try:
            # A start that failed before its first report leaves nothing behind.
            if (self._folder / METRICS).stat().st_size > 0:
                for path in sorted(self._folder.iterdir()):
                    if _RECORD.fullmatch(path.name):
                        self._copy(self._storage, path)
        except FileNotFoundError:
            self._failing = False  # no report yet, or a log that was rotated meanwhile: next time
        except Exception as error:  # a storage's package may raise anything
            was_failing, self._failing = self._failing, True
            if not was_failing:
                self.failed(f"{self._storage.url}/{FOLDER}: cannot be written: {error}; retrying")
        else:
            self._failing = False

    def _copy(self, storage: Storage, path: Path) -> None:
        status = path.stat()
        version = (status.st_size, status.st_mtime_ns)
        if self._copied.get(path.name) != version:
            storage.write(f"{FOLDER}/{path.name}", path.read_bytes())
            self._copied[path.name] = version


def restore_records(storage: Storage, folder: Path) -> None:
    """Bring a run folder up to date with the records in a storage.

    Another machine may have continued the run. So a record that is missing here, or longer there,
    comes from the storage, and of two best policies the better one stays.

    Args:
        storage: of the run's checkpoints.
        folder: of the run.

    Raises:
        OSError: the storage cannot be read, or the folder cannot be written.
    """
    for stored, size in storage.sizes().items():
        name = stored.removeprefix(f"{FOLDER}/")
        if stored == name or not _RECORD.fullmatch(name):
            continue
        path = folder / name
        if name == BEST and path.exists():
            data = storage.read(stored).tobytes()
            if _score(data) > _score(path.read_bytes()):
                write_atomically(path, data)
        elif not path.exists() or (name != SUMMARY and size > path.stat().st_size):
            write_atomically(path, storage.read(stored))


def _score(best: bytes) -> float:
    try:
        return float(tensor_metadata(best)["score"])
    except (ValueError, KeyError):
        return -math.inf

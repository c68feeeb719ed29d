"""Records of a run in its storage: copied while it is active, and restored elsewhere."""

import threading
import time

import pytest

from common.storage import LocalStorage
from deploy.runs.records import RecordsCopy, restore_records

RECORDS = {
    "best.safetensors": b"weights",
    "metrics.jsonl": b"{}\n",
    "summary.json": b"{}",
    "attempts.jsonl": b"{}\n",
    "run.log": b"now",
    "run.log.1": b"before",
    "events.out.tfevents.1764.25.host-1": b"events",
}
OTHERS = {
    "config.toml": b"[env]",
    "status.json": b"{}",
    ".lock": b"",
    "control.toml": b"",
    "x": b"",
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    for name, data in {**RECORDS, **OTHERS}.items():
        (path / name).write_bytes(data)
    return path


def test_records_are_copied_and_come_back(tmp_path, folder):
    storage = LocalStorage(tmp_path / "storage")
    copy = RecordsCopy(folder, storage)
    copy.request()
    (folder / "metrics.jsonl").write_bytes(b"{}\n{}\n")
    assert copy.finish(10)
    assert sorted(storage.sizes()) == sorted(f"records/{name}" for name in RECORDS)
    there = tmp_path / "there"
    there.mkdir()
    (there / "run.log").write_bytes(b"of this machine")
    restore_records(storage, there)
    wanted = RECORDS | {"metrics.jsonl": b"{}\n{}\n", "run.log": b"of this machine"}
    assert {path.name: path.read_bytes() for path in there.iterdir()} == wanted


def test_a_run_that_keeps_its_checkpoints_in_its_folder_copies_nothing(folder):
    copy = RecordsCopy(folder, None)
    copy.request()
    assert copy.finish(0)
    assert not (folder / "records").exists()


def test_a_storage_that_hangs_delays_neither_requests_nor_the_end(tmp_path, folder):
    class Hanging(LocalStorage):
        def write(self, name, data):
            released.wait(30)

    released = threading.Event()
    copy = RecordsCopy(folder, Hanging(tmp_path / "storage"))
    begin_s = time.monotonic()
    for _ in range(100):
        copy.request()
    assert not copy.finish(0.1)
    assert time.monotonic() - begin_s < 5
    released.set()


def test_a_failure_is_told_once_and_mended_by_a_later_copy(tmp_path, folder):
    class Full(LocalStorage):
        full = True

        def write(self, name, data):
            if self.full:
                raise OSError(28, "No space left on device")
            super().write(name, data)

    storage, told = Full(tmp_path / "storage"), []
    copy = RecordsCopy(folder, storage)
    copy.failed = told.append
    copy.request()
    deadline_s = time.monotonic() + 10
    while not told and time.monotonic() < deadline_s:
        time.sleep(0.01)
    storage.full = False
    assert copy.finish(10)
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert len(storage.sizes()) == len(RECORDS)

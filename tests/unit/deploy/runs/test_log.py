"""The log of a run: lines with time and level, rotated, and harmless where it cannot be written."""

from __future__ import annotations

import logging
import logging.handlers
import re
from datetime import datetime
from pathlib import Path

import pytest

from deploy.runs import log
from deploy.runs.log import RunLog, last_events


class Failures:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def failures():
    return Failures()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.log"


def test_a_line_has_time_with_zone_level_and_text_and_the_detail_below(path, failures):
    run_log = RunLog(path, failures)
    assert not path.exists(), "the first event creates it"
    run_log.notify("actor-0 was replaced: ε", logging.WARNING, "Traceback\n  File x\n", at_s=1.5)
    run_log.notify("two\nlines", logging.DEBUG)
    run_log.close()
    first, trace, file, second, rest = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"1970-01-01T\S+[+-]\d\d:\d\d WARNING actor-0 was replaced: ε", first)
    assert datetime.fromisoformat(first.split()[0]).timestamp() == 1.5
    assert (trace, file, rest) == ("    Traceback", "      File x", "    lines")
    assert " DEBUG two" in second
    assert failures.lines == []


def test_later_attempts_append_and_the_last_events_read_back(path, failures):
    for attempt in range(3):
        run_log = RunLog(path, failures)
        for number in range(4):
            run_log.notify(f"event {attempt}.{number}", detail="because" if number == 3 else "")
        run_log.close()
    events = last_events(path)
    assert [event["text"] for event in events] == [
        f"event {attempt}.{number}" for attempt in (1, 2) for number in range(4)
    ]
    assert [event["detail"] for event in events[-2:]] == ["", "because"]
    assert {event["level"] for event in events} == {"INFO"}
    assert len(last_events(path, count=3)) == 3


def test_events_below_a_level_do_not_crowd_out_the_others(path, failures):
    run_log = RunLog(path, failures)
    for number in range(3):
        run_log.notify(f"part {number} died", logging.WARNING, detail="because")
    for number in range(1_000):
        run_log.notify(f"checkpoint {number:04d} " + "x" * 80, logging.DEBUG)
    run_log.close()
    assert path.stat().st_size > log.TAIL_BYTES[0]
    events = last_events(path, least=logging.INFO)
    assert [event["text"] for event in events] == [f"part {number} died" for number in range(3)]
    assert {event["detail"] for event in events} == {"because"}
    assert len(last_events(path)) == log.EVENTS, "with every level, the checkpoints"


def test_a_full_file_is_rotated_and_the_oldest_is_removed(path, failures, monkeypatch):
    monkeypatch.setattr(log, "MAX_BYTES", 1_000)
    run_log = RunLog(path, failures)
    for number in range(200):
        run_log.notify(f"event {number:03d} " + "x" * 50)
    run_log.close()
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["run.log", *(f"run.log.{i}" for i in range(1, 5))]
    assert all(file.stat().st_size <= 1_000 for file in files)
    numbers = [int(event["text"][6:9]) for event in last_events(path, count=15)]
    assert numbers == list(range(185, 200)), "the file before belongs to it"


def test_a_full_disk_is_reported_once_and_stops_nothing(path, failures):
    path.symlink_to("/dev/full")
    run_log = RunLog(path, failures)
    for number in range(3):
        run_log.notify(f"event {number}")
    run_log.close()
    run_log.close()
    (line,) = failures.lines
    assert line.startswith(f"{path}: cannot be written: No space left on device; the run continues")


def test_an_event_that_a_full_disk_cuts_off_does_not_swallow_the_next(path, failures, monkeypatch):
    class Filling:
        """A file whose disk has room for ten bytes, then for none, then is emptied."""

        def __init__(self, file) -> None:
            self.file, self.room = file, [10, 0]

        def fileno(self):
            return self.file.fileno()

        def write(self, data):
            room = self.room.pop(0) if self.room else len(data)
            if not room:
                raise OSError(28, "No space left on device")
            return self.file.write(data[:room])

        def close(self):
            self.file.close()

    real = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args, **more: Filling(real(self, *args, **more)))
        run_log = RunLog(path, failures)
        for number in range(3):
            run_log.notify(f"event {number}")
        run_log.close()
    assert len(failures.lines) == 1
    cut_off, *whole = path.read_text().splitlines()
    assert len(cut_off) == 10
    assert [line.rpartition(" INFO ")[2] for line in whole] == ["event 1", "event 2"]


def test_a_folder_that_is_gone_is_reported_once(tmp_path, failures):
    run_log = RunLog(tmp_path / "gone" / "run.log", failures)
    run_log.notify("one")
    run_log.notify("two")
    run_log.close()
    assert len(failures.lines) == 1
    assert "No such file or directory" in failures.lines[0]


def test_the_logger_is_the_runs_own(path, failures):
    of_the_program = logging.handlers.BufferingHandler(capacity=100)
    logging.root.addHandler(of_the_program)
    logging.disable(logging.CRITICAL)
    try:
        run_log = RunLog(path, failures)
        run_log.notify("mine")
        run_log.close()
        run_log.notify("after the end")
    finally:
        logging.disable(logging.NOTSET)
        logging.root.removeHandler(of_the_program)
    assert of_the_program.buffer == []
    assert "raydqn.run" not in logging.root.manager.loggerDict
    assert [event["text"] for event in last_events(path)] == ["mine"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"\xff\xfe\x00 no log\n    at all", []),
        (b"    a detail\n2026-01-01T00:00:00.000+00:00 INFO sound\n", ["sound"]),
        (b"2026-01-01T00:00:00.000+00:00 INFO cut \xc3", ["cut \ufffd"]),
    ],
)
def test_a_damaged_log_yields_the_events_that_are_sound(path, content, texts):
    path.write_bytes(content)
    assert [event["text"] for event in last_events(path)] == texts


def test_without_a_log_there_are_no_events(path):
    assert last_events(path) == []

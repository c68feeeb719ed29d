"""The thread of the run folder's disk: in order, bounded, and never waited for without a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from common.errors import UserError
from deploy.runs.disk import Disk
from support.paths import ROOT


@pytest.fixture
def pipe(tmp_path):
    """To open it for writing waits for a reader: a file on a disk that hangs."""
    path = tmp_path / "metrics.jsonl"
    os.mkfifo(path)
    return path


@contextmanager
def hanging(pipe, **arguments):
    """A disk whose job in progress hangs; at the end it answers."""
    disk = Disk(**arguments)
    disk.start()
    disk.submit(lambda: pipe.open("wb").close())
    deadline_s = time.monotonic() + 10
    while not disk.stuck_s and time.monotonic() < deadline_s:
        time.sleep(0.001)
    try:
        yield disk
    finally:
        answer(pipe)
        assert disk.finish(10)


def answer(pipe) -> None:
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))


def full():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("in_thread", [True, False])
def test_jobs_run_in_their_order_and_results_and_errors_are_handed_back(in_thread):
    disk, written = Disk(), []
    if in_thread:
        disk.start()
    futures = [disk.submit(lambda n=number: written.append(n) or n) for number in range(100)]
    failed = disk.submit(full)
    assert disk.flush(10)
    assert written == [future.result() for future in futures] == list(range(100))
    with pytest.raises(OSError, match="No space left"):
        failed.result()
    with pytest.raises(OSError, match="No space left"):
        disk.call(full, 10)
    assert disk.call(lambda: threading.current_thread().name, 10) == (
        "disk" if in_thread else threading.current_thread().name
    )
    assert disk.finish(10)
    assert disk.call(threading.current_thread, 0) is threading.current_thread(), "from now on"


def test_without_a_thread_a_defect_is_raised_at_once():
    def refused():
        raise UserError("no")

    disk = Disk()
    with pytest.raises(ZeroDivisionError):
        disk.submit(lambda: 1 / 0)
    assert isinstance(disk.submit(refused).exception(), UserError)
    assert disk.stuck_s == disk.waiting == 0


def test_of_jobs_of_one_name_the_newest_counts_and_only_jobs_without_one_are_dropped(pipe):
    with hanging(pipe, max_waiting=3) as disk:
        written = []
        named = [
            disk.submit(lambda n=n: written.append(n), name=n[:-1]) for n in ("a1", "b1", "a2")
        ]
        unnamed = [disk.submit(lambda n=n: written.append(n)) for n in range(5)]
        last = disk.submit(lambda: written.append("a3"), name="a")
        assert disk.waiting == 5
        assert disk.dropped == 2
        assert [one.cancelled() for one in (*named, *unnamed, last)] == [
            *(True, False, True),
            *(True, True, False, False, False),
            False,
        ]
        answer(pipe)
        assert disk.flush(10)
        assert written == ["b1", 2, 3, 4, "a3"]
        assert disk.waiting == disk.stuck_s == 0


def test_no_wait_for_a_disk_that_hangs_is_longer_than_its_limit_nor_do_waits_add_up(pipe):
    with hanging(pipe) as disk:
        written = []
        begin_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"has not responded in 0\.3 s"):
            disk.call(lambda: written.append(1), 0.3)
        for _ in range(100):
            assert not disk.flush(0.3)
            assert not disk.finish(0.3)
        assert 0.2 < time.monotonic() - begin_s < 5
        assert disk.stuck_s >= 0.3
    assert written == [1], "it takes place when the disk answers"


def test_a_disk_that_answers_after_the_end_serves_its_caller_again(pipe):
    disk, written = Disk(), []
    disk.start()
    disk.submit(lambda: pipe.open("wb").close())
    assert not disk.finish(0.1)
    answer(pipe)
    assert disk.call(lambda: written.append(1) or 1, 10) == 1
    assert disk.finish(10)
    assert disk.call(threading.current_thread, 10) is threading.current_thread()


def test_a_signal_handler_may_submit_while_a_job_is_submitted():
    disk, written = Disk(), []
    disk.start()

    def handler(*_):
        disk.submit(lambda: written.append("signal"))

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        for number in range(5_000):
            disk.submit(lambda n=number: written.append(n), name=str(number))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert disk.finish(10)
    assert [one for one in written if one != "signal"] == list(range(5_000))
    assert "signal" in written


SCRIPT = """
import os, sys, time
from pathlib import Path
from deploy.runs.disk import Disk
from deploy.runs.log import RunLog
run = Path(sys.argv[1])
log = RunLog(run / "run.log", print)
log.notify("begun")
disk = Disk()
disk.start()
{hang}
while not disk.stuck_s:
    time.sleep(0.001)
print(disk.finish(0.1), flush=True)
"""


@pytest.mark.parametrize(
    "hang",
    [
        'os.mkfifo(run / "x"); disk.submit((run / "x").read_bytes)',
        # As the log opens its file anew; the pipe is full after 64 KiB.
        'log.close(); os.mkfifo(run / "y"); other = os.open(run / "y", os.O_RDWR); '
        'log = RunLog(run / "y", print); '
        'disk.submit(lambda: [log.notify("x" * 1_000) for _ in range(1_000)])',
    ],
    ids=["an open", "a write to the log"],
)
def test_the_interpreter_ends_although_a_job_hangs(tmp_path, hang):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(hang=hang), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")

"""Writes in the background: in order, bounded, and without waiting for a disk that hangs."""

import os
import threading
import time

from deploy.runs.disk import Disk


def ignore(error):
    pass


def test_writes_take_place_in_their_order_and_errors_are_handed_back():
    disk, written, errors = Disk(background=True), [], []

    def fail():
        raise OSError(28, "No space left on device")

    for number in range(100):
        disk.write(lambda number=number: written.append(number), errors.append)
    disk.write(fail, errors.append)
    assert disk.finish(10)
    assert written == list(range(100))
    assert errors[:100] == [None] * 100
    assert errors[100].errno == 28


def test_inline_a_write_is_over_when_it_returns():
    disk, written = Disk(background=False), []
    disk.write(lambda: written.append(threading.current_thread()), ignore)
    assert written == [threading.main_thread()]
    assert disk.finish(0)
    assert disk.stuck_s == 0


def test_a_disk_that_hangs_delays_no_writer_and_keeps_the_newest_writes(tmp_path):
    pipe = tmp_path / "metrics.jsonl"
    os.mkfifo(pipe)  # to open it for writing waits for a reader: a file on a disk that hangs
    disk, written = Disk(background=True, max_waiting=10), []
    begin_s = time.monotonic()
    disk.write(lambda: pipe.open("wb").close(), ignore)
    while not disk.stuck_s and time.monotonic() - begin_s < 10:
        time.sleep(0.01)
    for number in range(25):
        disk.write(lambda number=number: written.append(number), ignore)
    assert not disk.finish(0.05)
    assert time.monotonic() - begin_s < 5
    assert disk.stuck_s >= 0.05
    assert disk.dropped == 15
    pipe.open("rb").close()  # the disk answers
    assert disk.finish(10)
    assert written == list(range(15, 25))

"""Lines that compiled code writes to standard error."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from deploy.runtime import quiet
from deploy.runtime.quiet import native_lines_to

RAY_LINE = b"[2026-11-30 10:57:43,282 E 32092 32290] rpc_client.h:204: Failed to connect to GCS\n"


@pytest.fixture
def own_stderr(monkeypatch, capfd, tmp_path):
    """Makes standard error that of a command: Python's stream is the process's own."""

    def begin():  # not before the test: pytest sets its stream in between
        stream = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 # until the test is over
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "__stderr__", stream)
        return capfd

    return begin


def test_raw_lines_go_to_the_log_and_messages_to_the_user(own_stderr, tmp_path):
    capture = own_stderr()
    lines, stream = [], sys.stderr
    with native_lines_to(lines.append):
        os.write(2, RAY_LINE)
        print("raydqn: failed: a message", file=sys.stderr)
        os.write(2, b"no end")
    print("afterwards", file=sys.stderr)
    os.write(2, b"also raw\n")
    assert lines == [RAY_LINE.decode().strip(), "no end"]
    assert capture.readouterr().err == "raydqn: failed: a message\nafterwards\nalso raw\n"
    assert sys.stderr is stream
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_restores_standard_error(own_stderr):
    capture = own_stderr()
    with pytest.raises(ZeroDivisionError), native_lines_to(lambda line: None):
        raise ZeroDivisionError
    os.write(2, RAY_LINE)
    assert capture.readouterr().err.encode() == RAY_LINE


def test_lines_are_handed_on_while_the_block_lasts_and_the_file_stays_small(
    own_stderr, monkeypatch, tmp_path
):
    monkeypatch.setattr(quiet, "READ_EVERY_S", 0.01)
    own_stderr()
    lines, three = [], threading.Event()

    def receive(line):
        lines.append(line)
        if len(lines) % 3 == 0:
            three.set()

    with native_lines_to(receive):
        for _ in range(3):
            three.clear()
            os.write(2, RAY_LINE * 3)
            assert three.wait(10.0)
        (file,) = tmp_path.iterdir()
        os.write(2, b"x")
        assert file.stat().st_size <= len(RAY_LINE)
    assert lines == [RAY_LINE.decode().strip()] * 9 + ["x"]


def test_a_standard_error_that_is_not_the_process_s_own_is_left_alone(capfd):
    lines = []
    with native_lines_to(lines.append):
        os.write(2, RAY_LINE)
    assert lines == []
    assert capfd.readouterr().err.encode() == RAY_LINE

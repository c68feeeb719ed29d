"""Signals while a run starts, and during the run."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

from deploy.launch.signals import (
    STOP_REASONS,
    StartInterrupted,
    deferred_signals,
    restored_handlers,
    stop_on_signals,
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_counts_even_if_a_handlers_exception_is_dropped(number):
    """Python drops the exception of Ray's handler if the signal arrives during a fork."""

    def handler(number, frame):
        raise SystemExit(1)

    def start_ray():
        with deferred_signals():
            signal.signal(signal.SIGTERM, handler)
            with suppress(SystemExit):
                os.kill(os.getpid(), number)
            reached.append(True)

    before, reached = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)), []
    with pytest.raises(StartInterrupted):
        start_ray()
    assert reached
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with deferred_signals():
        pass  # no signal: no interrupt
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_while_ray_starts_is_told_at_once_by_another_thread(number):
    """The main thread may be in Ray's code, where no Python handler runs, for seconds."""
    told, heard = [], threading.Event()

    def notify(received: signal.Signals) -> None:
        told.append((received, threading.current_thread() is threading.main_thread()))
        heard.set()

    def start() -> None:
        with deferred_signals(notify) as received:
            assert not received()
            signal.pthread_kill(threading.main_thread().ident, number)
            assert heard.wait(5.0)
            assert received()
            os.kill(os.getpid(), number)

    with pytest.raises(StartInterrupted):
        start()
    assert told == [(number, False)], "the second one is not told again"


@pytest.mark.parametrize("number", STOP_REASONS)
def test_the_first_signal_asks_for_a_clean_stop_and_a_second_ctrl_c_interrupts(number):
    """Kubernetes and Slurm may send SIGTERM twice, where one stop is meant."""
    before = {one: signal.getsignal(one) for one in STOP_REASONS}
    reasons, lines = [], []
    with restored_handlers(), stop_on_signals(reasons.append, lines.append):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert reasons == [STOP_REASONS[number]]
    (line,) = lines
    assert line.startswith(f"{STOP_REASONS[number]} ({number.name}): finishing")
    assert {one: signal.getsignal(one) for one in STOP_REASONS} == before


def test_a_signal_after_the_run_cuts_nothing_short():
    """The last files are written, and Ray ends, when no run is left to stop."""
    before = {one: signal.getsignal(one) for one in STOP_REASONS}
    reasons, lines = [], []
    with restored_handlers():
        with stop_on_signals(reasons.append, lines.append):
            pass
        for number in (signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert reasons == lines == []
    assert {one: signal.getsignal(one) for one in STOP_REASONS} == before

"""Signals while a run starts, and while it trains."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from deploy.launch.signals import STOP_REASONS, deferred_signals, stop_on_signals


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
            signal.signal(signal.SIGTERM, before[1])
            reached.append(True)

    before, reached = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)), []
    with pytest.raises(KeyboardInterrupt):
        start_ray()
    assert reached
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with deferred_signals():
        pass  # no signal: no interrupt
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", STOP_REASONS)
def test_the_first_signal_asks_for_a_clean_stop_and_the_second_interrupts(number):
    before = {one: signal.getsignal(one) for one in STOP_REASONS}
    reasons, lines = [], []
    with stop_on_signals(reasons.append, lines.append):
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert reasons == [STOP_REASONS[number]]
    (line,) = lines
    assert line.startswith(f"{STOP_REASONS[number]} by {number.name}: finishing")
    assert {one: signal.getsignal(one) for one in STOP_REASONS} == before

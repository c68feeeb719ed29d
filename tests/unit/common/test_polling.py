"""The one polling loop."""

from __future__ import annotations

import math
import threading
import time

import pytest

from common.polling import call_within, poll_until


def test_it_looks_until_the_result_is_true_and_returns_it():
    results = iter([None, 0, "found", "not reached"])
    assert poll_until(lambda: next(results), math.inf, 0.001) == "found"
    assert next(results) == "not reached"


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0])
def test_without_time_it_looks_once(timeout_s):
    looks = []
    assert poll_until(lambda: looks.append(1), timeout_s, 10.0) is None
    assert len(looks) == 1


def test_when_the_time_is_up_it_looks_a_last_time_and_sleeps_no_longer():
    looks, begin = [], time.monotonic()
    assert not poll_until(lambda: looks.append(1), 0.02, 60.0)
    assert len(looks) == 2
    assert time.monotonic() - begin < 5


def test_an_exception_ends_the_wait():
    def look() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        poll_until(look, math.inf, 1.0)


def test_work_that_hangs_is_waited_for_within_a_limit():
    answers = threading.Event()
    assert call_within(10, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        call_within(10, lambda: 1 / 0)
    with pytest.raises(TimeoutError):
        call_within(0.05, answers.wait)
    answers.set()

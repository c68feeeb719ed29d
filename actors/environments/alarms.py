"""The alarm of the process (timer and handler of SIGALRM), which an environment may use.

An environment's alarm runs during the environment's calls only: it pauses after a call and resumes
with the next one.
"""

from __future__ import annotations

import signal
import time
from typing import Any, NamedTuple

_signal: Any = getattr(signal, "_signal", signal)  # without Python's wrapper: 0.1 µs, not 2.5
NUMBER = int(signal.SIGALRM)
SOONEST_S = 1e-6
TOLERANCE_S = 0.01
"""Difference between the timer and the expected remainder that is no change."""


class Alarm(NamedTuple):
    """State of SIGALRM.

    Attributes:
        handler: as Python knows it; None: installed by C code.
        left_s: until the timer rings; 0: it is off.
        every_s: afterwards; 0: once.
        at_s: `time.monotonic()` of this state.
        doubt_s: time that it took to read; `at_s` is its end.
    """

    handler: Any
    left_s: float
    every_s: float
    at_s: float
    doubt_s: float = 0.0


def alarm_of_now() -> Alarm:
    """The state now."""
    before_s = time.monotonic()
    left_s, every_s = _signal.getitimer(signal.ITIMER_REAL)
    at_s = time.monotonic()
    return Alarm(_signal.getsignal(NUMBER), left_s, every_s, at_s, at_s - before_s)


def resume_alarm(alarm: Alarm) -> None:
    """Install an environment's handler, and let its timer go on."""
    _signal.setitimer(signal.ITIMER_REAL, 0.0)
    if alarm.handler is not None:
        signal.signal(signal.SIGALRM, alarm.handler)
    if alarm.left_s:
        _signal.setitimer(signal.ITIMER_REAL, alarm.left_s, alarm.every_s)


def exchange_alarm(ours: Alarm) -> Alarm | None:
    """Stop the environment's alarm and restore the program's.

    Args:
        ours: the program's, before the call.

    Returns:
        What the environment left behind; None if it left nothing.
    """
    theirs = alarm_of_now()
    expected_s = _remainder_s(ours, theirs.at_s)
    if theirs.handler is ours.handler and _is_unchanged(theirs, ours, expected_s):
        return None
    resume_alarm(ours._replace(left_s=max(expected_s, SOONEST_S) if ours.left_s else 0.0))
    return theirs


def _remainder_s(alarm: Alarm, now_s: float) -> float:
    """What the timer shows now if it has run on; 0 or less: it has rung, once and for all."""
    if not alarm.left_s:
        return 0.0
    left_s = alarm.left_s - (now_s - alarm.at_s)
    return left_s % alarm.every_s if left_s <= 0 and alarm.every_s else left_s


def _is_unchanged(now: Alarm, before: Alarm, expected_s: float) -> bool:
    """Whether the timer has run on; expected_s: see `_remainder_s`."""
    if not before.left_s:
        return not now.left_s
    if expected_s <= 0 and not before.every_s:
        return True  # it has rung; a new timer may be one that the program's handler has set
    difference_s = abs(now.left_s - expected_s)
    if before.every_s:  # the timer shows all of its interval where 0 is expected
        difference_s = min(difference_s, abs(before.every_s - difference_s))
    doubt_s = TOLERANCE_S + now.doubt_s + before.doubt_s
    return now.every_s == before.every_s and difference_s <= doubt_s

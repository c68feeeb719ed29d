"""SIGALRM: the one timer of a process, and its handler, of which an environment may make use.

An alarm of the environment runs while the environment does: it stops with a call, and goes on with
the next one.
"""

from __future__ import annotations

import signal
import time
from typing import Any, NamedTuple

_signal: Any = getattr(signal, "_signal", signal)  # without Python's wrapper: 0.1 µs, not 2.5
NUMBER = int(signal.SIGALRM)
DEFAULTS = (int(signal.SIG_DFL), int(signal.SIG_IGN))
SOONEST_S = 1e-6


class Alarm(NamedTuple):
    """State of SIGALRM.

    Attributes:
        handler: as Python knows it; None: installed by C code.
        left_s: until the timer rings; 0: it is off.
        every_s: afterwards; 0: once.
        at_s: `time.monotonic()` of this state.
    """

    handler: Any
    left_s: float
    every_s: float
    at_s: float


def alarm_of_now() -> Alarm:
    """The state now; without a handler the timer is taken to be off, which saves a system call."""
    handler = _signal.getsignal(NUMBER)
    if handler in DEFAULTS:
        return Alarm(handler, 0.0, 0.0, 0.0)
    left_s, every_s = _signal.getitimer(signal.ITIMER_REAL)
    return Alarm(handler, left_s, every_s, time.monotonic())


def resume_alarm(alarm: Alarm) -> None:
    """Install an environment's handler, and let its timer go on."""
    _signal.setitimer(signal.ITIMER_REAL, 0.0)
    if alarm.handler is not None:
        signal.signal(signal.SIGALRM, alarm.handler)
    if alarm.left_s:
        _signal.setitimer(signal.ITIMER_REAL, alarm.left_s, alarm.every_s)


def take_alarm(ours: Alarm, is_step: bool) -> Alarm | None:
    """Stop an environment's alarm, and put back the program's own.

    Args:
        ours: the program's, before the call.
        is_step: an alarm without a handler need not be found.

    Returns:
        What the environment left behind; None if it left nothing.
    """
    handler = _signal.getsignal(NUMBER)
    if handler is ours.handler and not ours.left_s and is_step:
        return None
    left_s, every_s = _signal.getitimer(signal.ITIMER_REAL)
    now_s = time.monotonic()
    ours_left_s = max(ours.left_s - (now_s - ours.at_s), SOONEST_S) if ours.left_s else 0.0
    theirs = Alarm(handler, left_s, every_s, now_s)
    if handler is ours.handler:
        was_stopped = bool(ours.left_s and not left_s and ours_left_s > SOONEST_S)
        if not was_stopped and (ours.left_s or not left_s):
            return None  # as before, or the program's own has rung
    resume_alarm(ours._replace(left_s=ours_left_s))
    return theirs

"""Values that change over a run, by the steps of a counter."""

from __future__ import annotations

import math


def exponential(step: int, start: float, end: float, decay: float) -> float:
    """A value that falls exponentially: `end + (start − end)·exp(−step·decay)`.

    Args:
        step: of the counter so far.
        start: at step 0.
        end: in the limit.
        decay: per step.
    """
    return end + (start - end) * math.exp(-step * decay)


def linear(step: int, start: float, end: float, steps: int) -> float:
    """A value on a straight line from `start` to `end` within `steps`, and `end` from then on."""
    return start + (end - start) * min(1.0, step / steps)


def linear_or_constant(step: int, start: float, end: float | None, steps: int) -> float:
    """`linear`; without an `end`, always `start`."""
    return start if end is None else linear(step, start, end, steps)

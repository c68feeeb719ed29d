"""Taking turns: speeds of several subjects on one machine, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

from deploy.bench.measurement import Measurement

OURS = "raydqn"
LIMIT = "numpy (limit)"
BY_SLICE = "numpy by slice (limit)"
LIMITS = (LIMIT, BY_SLICE)
BARE = "bare remote (limit)"
TRANSITIONS, PER_TRANSITION = "transitions/s", "B/transition"
Subjects = Mapping[str, Callable[[], int]]


def in_turn(subjects: Subjects, rounds: int, slice_s: float) -> dict[str, list[float]]:
    """Items per second of each subject, once per round.

    Args:
        subjects: by name, a call that returns the number of items it has processed.
        rounds: measurements of each.
        slice_s: seconds of one measurement.
    """
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for work in subjects.values():
        work()
    for _ in range(rounds):
        for name, work in subjects.items():
            done, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < slice_s:
                done += work()
            rates[name].append(done / elapsed)
    return rates


def measurements(figure: str, rates: Mapping[str, list[float]], unit: str) -> Iterator[Measurement]:
    """The rates, and the ratios of ours to the limits and to the best peer, round by round."""
    for name, values in rates.items():
        yield Measurement.of(figure, name, values, unit)
    others = [name for name in (*LIMITS, BARE) if name in rates]
    peers = {name: median(v) for name, v in rates.items() if name not in (OURS, *others)}
    if OURS not in rates:
        return
    if peers:
        others.append(max(peers, key=lambda name: peers[name]))
    for other in others:
        ratios = [a / b for a, b in zip(rates[OURS], rates[other], strict=True)]
        yield Measurement.of(figure, f"{OURS} ÷ {other}", ratios, "ratio")

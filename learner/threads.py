"""The number of torch's threads in the learner: fixed, or as many as make its steps fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from math import ceil, inf, isfinite
from pathlib import Path

import psutil
import torch

from common.config_learner import LearnerConfig

LOOK_S = 2.0
"""Seconds of training with one number before another is tried."""
STALE_S = 60.0
"""Age at which the step time of a number counts no more: the neighbours may have changed."""
GAIN = 0.95
"""More threads are used if a step takes at most this share of the time with fewer."""
GROUPS = Path("/sys/fs/cgroup")


class Threads:
    """Sets torch's threads.

    With `learner.threads = "auto"` it tries 1, 2, 4, … threads for `LOOK_S` seconds each, as far as
    there are cores that other processes leave free, and stays with the fastest number. Free cores
    alone would not tell: small layers get slower with more threads, and a thread beside a busy
    neighbour holds up all the others.

    Attributes:
        count: threads in use.
    """

    def __init__(
        self,
        config: LearnerConfig,
        free_cores: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        """Sets the fixed number, or 1 to begin with.

        Args:
            config: its `threads`.
            free_cores: that this process may use, those it uses included; by default measured.
            clock: seconds.
            use: sets the number of threads.
        """
        self._is_auto = not config.threads
        self.count = config.threads or 1
        self._free_cores = free_cores or FreeCores()
        self._clock, self._use = clock, use
        self._step_s: dict[int, tuple[float, float]] = {}  # by number: mean, and when measured
        self._steps, self._busy_s = 0, 0.0
        use(self.count)

    def add(self, steps: int, busy_s: float) -> None:
        """Tell of learner steps made, and change the number if another one is due.

        Args:
            steps: how many. busy_s: seconds that they took, without waiting for samples.
        """
        if not self._is_auto:
            return
        self._steps += steps
        self._busy_s += busy_s
        if self._busy_s < LOOK_S or not self._steps:
            return
        now = self._clock()
        self._step_s[self.count] = (self._busy_s / self._steps, now)
        self._steps, self._busy_s = 0, 0.0
        count = self._next(now)
        if count != self.count:
            self.count = count
            self._use(count)

    def _next(self, now: float) -> int:
        """The number to continue with: one that is not measured, else the fastest."""
        candidates = [*_powers(max(1, round(self._free_cores())))]
        known = {
            count: seconds
            for count, (seconds, at) in self._step_s.items()
            if now - at < STALE_S and count in candidates
        }
        best = min(known, default=1)
        for count in sorted(known):
            if known[count] < GAIN * known[best]:
                best = count
        # The neighbours of the fastest number; numbers beyond a slower one are left out.
        place = candidates.index(best)
        for near in candidates[max(0, place - 1) : place + 2]:
            if near not in known:
                return near
        return best


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4, … up to `most`, and `most`."""
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


class FreeCores:
    """Measures the cores that other processes leave to this one, between two calls."""

    def __init__(self) -> None:
        """Begins to measure."""
        self._process = psutil.Process()
        self._cores = sorted(os.sched_getaffinity(0))
        self._quota = cpu_quota()
        self._before = self._look()

    def __call__(self) -> float:
        """Cores, those that this process uses included; at least 0."""
        now, before = self._look(), self._before
        self._before = now
        wall_s, busy_s, own_s = (new - old for new, old in zip(now, before, strict=True))
        others = max(0.0, busy_s - own_s) / wall_s if wall_s > 0 else 0.0
        return max(0.0, min(self._quota, len(self._cores) - others))

    def _look(self) -> tuple[float, float, float]:
        """Seconds of the clock, of all processes on these cores, and of this process."""
        busy = 0.0
        for core, times in enumerate(psutil.cpu_times(percpu=True)):
            if core in self._cores:
                busy += sum(times) - times.idle - getattr(times, "iowait", 0.0)
        own = self._process.cpu_times()
        return time.monotonic(), busy, own.user + own.system


def cpu_quota(group: str | None = None, root: Path = GROUPS) -> float:
    """Cores that the control group of this process may use; infinite: there is no limit.

    Args:
        group: path of the group, by default this process's.
        root: where groups are mounted.
    """
    least = inf
    for folder in _folders(group if group is not None else _own_group(), root):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            least = min(least, inf if quota == "max" else float(quota) / float(period))
        except (OSError, ValueError):
            continue
    return max(1.0, float(ceil(least))) if isfinite(least) else inf


def _own_group() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _folders(group: str, root: Path) -> Iterator[Path]:
    """The group's folder and those of all groups above it."""
    parts = Path(group.lstrip("/")).parts
    for depth in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:depth])

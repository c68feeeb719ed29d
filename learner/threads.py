"""The number of torch's threads in the learner: fixed, or as many as make its steps fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path

import psutil
import torch

from common.config_learner import LearnerConfig
from common.control_groups import CGROUP, OWN_GROUPS, group_folders

LOOK_S = 2.0
"""Seconds of training with one number before another is tried."""
STALE_S = 60.0
"""Age from which the step time of a number no longer counts: the neighbours may have changed."""
GAIN = 0.95
"""More threads are used if a step takes at most this share of the time with fewer."""
TO_TAKE, TO_KEEP = 0.25, 0.6
"""Cores that may be missing for a greater number of threads, and for one in use: free cores
fluctuate, and the number must not."""


class Threads:
    """Sets torch's threads.

    With `learner.threads = "auto"` it tries 1, 2, 4, … threads for `LOOK_S` seconds each, as far as
    there are cores that other processes leave free, and stays with the fastest number. The number
    of free cores does not suffice: small layers get slower with more threads, and a thread beside a
    busy neighbour holds up all the others.

    Attributes:
        count: threads in use.
    """

    def __init__(
        self,
        config: LearnerConfig,
        cores: FreeCores | None = None,
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        """Sets the fixed number, or 1 to begin with.

        Args:
            config: its `threads`.
            cores: of the machine; by default measured.
            clock: seconds.
            use: sets the number of threads.
        """
        self._is_auto = not config.threads
        self.count = config.threads or 1
        self._cores = (cores or FreeCores()) if self._is_auto else None
        self._clock, self._use = clock, use
        self._step_s: dict[int, tuple[float, float]] = {}  # by number: mean, and when measured
        self._steps, self._busy_s = 0, 0.0
        use(self.count)

    def add(self, steps: int, busy_s: float) -> None:
        """Report learner steps, and change the number if another one is due.

        Args:
            steps: how many. busy_s: seconds that they took, without waiting for samples.
        """
        if self._cores is None:
            return
        self._steps += steps
        self._busy_s += busy_s
        if self._busy_s < LOOK_S or not self._steps:
            return
        now = self._clock()
        self._step_s[self.count] = (self._busy_s / self._steps, now)
        self._steps, self._busy_s = 0, 0.0
        count = self._next(self._cores, now)
        if count != self.count:
            self.count = count
            self._use(count)

    def _next(self, cores: FreeCores, now: float) -> int:
        """The number to continue with: one that is not measured, else the fastest."""
        free = cores.free()
        if free is None:
            return self.count
        candidates = [
            count
            for count in _powers(max(1, round(cores.most)))
            if count == 1 or count <= free + (TO_KEEP if count <= self.count else TO_TAKE)
        ]
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
    """Measures the cores that other processes leave to this one.

    Attributes:
        most: cores that this process may use at the most: by its affinity, and by the quota of its
            control group (a container's).
    """

    def __init__(self, quota: Quota | None = None) -> None:
        """Begins to measure.

        Args:
            quota: of the control group; by default this process's.
        """
        self._process = psutil.Process()
        self._affinity = sorted(os.sched_getaffinity(0))
        self._quota = quota or Quota.of_this_process()
        self.most = min(float(len(self._affinity)), max(1.0, self._quota.cores))
        self._before = self._look()

    def free(self) -> float | None:
        """Cores since the last call, those that this process used included; None: unknown."""
        now, before = self._look(), self._before
        self._before = now
        if now is None or before is None or now[0] <= before[0]:
            return None
        wall_s, busy_s, own_s, group_s = (new - old for new, old in zip(now, before, strict=True))
        beside = max(0.0, busy_s - own_s) / wall_s
        in_group = max(0.0, group_s - own_s) / wall_s
        return max(0.0, min(len(self._affinity) - beside, self._quota.cores - in_group))

    def _look(self) -> tuple[float, float, float, float] | None:
        """Seconds: of the clock, of the affinity's cores, of this process, of its group."""
        try:
            own = self._process.cpu_times()
            used = (_busy_s(self._affinity), own.user + own.system, self._quota.used_s())
        except (OSError, psutil.Error):
            return None
        return (time.monotonic(), *used)


def _busy_s(cores: list[int]) -> float:
    """Seconds that some cores were busy, all together."""
    rows = psutil.cpu_times(percpu=True)
    # A guest's time is in the user's, too.
    idle = ("idle", "iowait", "guest", "guest_nice")
    busy = [sum(row) - sum(getattr(row, name, 0.0) for name in idle) for row in rows]
    if len(rows) <= cores[-1]:  # rows of other cores, or of a part of them
        return len(cores) * sum(busy) / len(busy)
    return sum(busy[core] for core in cores)


class Quota:
    """The CPU time that a control group allows, and has used.

    Attributes:
        cores: as a number of cores; infinite: no limit.
    """

    def __init__(self, cores: float = inf, usage: Path | None = None) -> None:
        """A quota whose use stands in the file `usage`; None: the use does not count."""
        self.cores = cores
        self._usage = usage

    @classmethod
    def of_this_process(cls, mount: Path = CGROUP, own: Path = OWN_GROUPS) -> Quota:
        """The tightest quota of the groups that this process is in; see `group_folders`."""
        quotas = [cls._of_folder(folder) for folder, _ in group_folders("cpu", own, mount)]
        return min(quotas, key=lambda quota: quota.cores)

    @classmethod
    def _of_folder(cls, folder: Path) -> Quota:
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                return cls(float(quota) / float(period), folder / "cpu.stat")
        with suppress(OSError, ValueError):
            limit = float((folder / "cpu.cfs_quota_us").read_text())
            if limit > 0:
                period_us = float((folder / "cpu.cfs_period_us").read_text())
                return cls(limit / period_us, folder / "cpuacct.usage")
        return cls()

    def used_s(self) -> float:
        """Seconds of CPU that the group has used; 0: unknown."""
        with suppress(OSError, ValueError, StopIteration):
            text = self._usage.read_text() if self._usage is not None else "0"
            if not text.startswith("usage_usec"):
                return float(text) / 1e9
            return float(text.split()[1]) / 1e6
        return 0.0

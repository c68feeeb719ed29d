"""`raydqn bench soak`: its checks can fail."""

from __future__ import annotations

import subprocess

import psutil
import pytest

from common.errors import UserError
from deploy.bench.soak import GROWTH_MIB, MemoryByPart, soak_measurements


def memory(growth_mib: float = 0.0, shared_mib: float = 10.0, spilled_bytes: int = 0):
    """The memory of a run of 90 s whose learner grows once, at the start of the last third."""
    seen = MemoryByPart()
    for at_s in range(90):
        seen.points["learner"].append((at_s, 100 + (growth_mib if at_s >= 60 else 0)))
    seen.shared_mib.append(shared_mib)
    seen.spilled_bytes = spilled_bytes
    return seen


def test_a_run_that_does_not_grow_passes():
    found = list(soak_measurements(memory(growth_mib=GROWTH_MIB), bound_mib=10.0))
    assert [m.value for m in found if m.figure.startswith("growth")] == [GROWTH_MIB]


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (memory(growth_mib=GROWTH_MIB + 1), "memory grew: learner by 25 MiB"),
        (memory(shared_mib=10.5), "object store exceeded its bound of 10 MiB"),
        (memory(spilled_bytes=1), "spilled 1 byte to disk"),
    ],
)
def test_growth_spilling_and_a_store_beyond_its_bound_are_errors(seen, message):
    with pytest.raises(UserError, match=message):
        list(soak_measurements(seen, bound_mib=10.0))


def test_memory_is_recorded_by_the_part_in_the_process():
    seen, this = MemoryByPart(), psutil.Process()
    with subprocess.Popen(["sleep", "30"]) as child:
        try:
            seen.record(this, {child.pid: "shard-0"}, 1.0)
        finally:
            child.kill()
    assert set(seen.points) >= {"driver", "shard-0"}
    assert all(mib > 0 for points in seen.points.values() for _, mib in points)

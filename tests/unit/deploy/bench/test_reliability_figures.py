"""The soak's checks can fail."""

from __future__ import annotations

import pytest

from common.errors import UserError
from deploy.bench.reliability import GROWTH_MIB, MemoryByPart, _middle, _settled, soak_figures


def memory(growth_mib: float = 0.0, shared_mib: float = 10.0, spilled_bytes: int = 0):
    """Of a run of 90 s in which the learner grows by so much at the last third's beginning."""
    seen = MemoryByPart()
    for at_s in range(90):
        seen.points["learner"].append((at_s, 100 + (growth_mib if at_s >= 60 else 0)))
    seen.shared_mib.append(shared_mib)
    seen.spilled_bytes = spilled_bytes
    return seen


def test_a_run_that_stays_as_it_is_passes():
    figures = list(soak_figures(memory(growth_mib=GROWTH_MIB), bound_mib=10.0))
    assert [f.value for f in figures if f.figure.startswith("growth")] == [GROWTH_MIB]


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (memory(growth_mib=GROWTH_MIB + 1), "memory grew: learner by 25 MiB"),
        (memory(shared_mib=10.5), "object store took more than its bound of 10 MiB"),
        (memory(spilled_bytes=1), "spilled 1 bytes to disk"),
    ],
)
def test_growth_spilling_and_a_store_beyond_its_bound_are_errors(seen, message):
    with pytest.raises(UserError, match=message):
        list(soak_figures(seen, bound_mib=10.0))


@pytest.mark.parametrize(
    ("number", "first", "last"),  # of a table of the binomial test
    [(5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (30, 10, 21)],
)
def test_the_interval_of_a_median_is_the_sign_tests(number, first, last):
    assert _middle(list(range(number, 0, -1))) == list(range(first, last + 1))


def test_what_was_lost_is_told_when_the_shard_that_came_back_has_been_heard():
    # Of a real run: for a report or two what the new shard holds is not counted.
    told = [(66_704, 66_964), (73_806, 40_984), (79_901, 74_819), (85_991, 79_896)]
    told += [(91_071, 85_741), (96_907, 91_574)]
    reports = [{"transitions": inserted, "replay_size": held} for inserted, held in told]
    assert [_settled(reports[:count]) for count in (4, 5, 6)] == [False, False, True]

"""Statistics of a table."""

from dataclasses import replace

import numpy as np
import pytest

from common import types
from common.types import TIMES
from replay_server.table_statistics import take_statistics
from support.replay import (
    filled_table,
    make_table,
    random_chunk,
)


def test_statistics_tell_what_was_drawn_and_what_is_held():
    table = filled_table([1e-5, 0.5, 0.5, 2.0, 20.0, 200.0], alpha=0.5, shard=2)
    table.update_priorities(np.array([1]), np.array([np.nan]), 0)
    empty = take_statistics(make_table())
    assert (sum(empty.times_sampled), sum(empty.priorities), empty.drawn) == (0, 0, 0)
    before = take_statistics(table)
    assert before.times_sampled == [6, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert dict(zip(types.PRIORITIES, before.priorities, strict=True)) == {
        **dict.fromkeys(types.PRIORITIES, 0),
        "<1e-4": 1,
        "<1": 2,
        "<10": 1,
        "<100": 1,
        ">=100": 1,
    }
    keys = np.concatenate([table.sample(50).key for _ in range(4)])
    times = np.bincount(keys, minlength=6)
    after = take_statistics(table)
    limits = [0, 1, 2, 4, 8, 16, 32, 64, 128, np.inf]
    expected = [0] * len(TIMES)
    for count in times:
        expected[next(i for i, limit in enumerate(limits) if count <= limit)] += 1
    assert after.times_sampled == expected
    assert after.drawn == 200
    assert after.age == pytest.approx((6 - keys).mean())
    assert take_statistics(table).drawn == 0, "means are over what was drawn since"
    assert after.summary == replace(table.summary())
    assert after.summary.refused == 1


def test_the_lag_is_behind_the_newest_version_that_acted():
    table = make_table(alpha=0.0)
    chunk = random_chunk(np.random.default_rng(0), 2, 2)
    chunk.columns["version"] = np.array([3, 9])
    table.insert(chunk)
    keys = table.sample(1000).key
    assert take_statistics(table).version_lag == pytest.approx(6 * (keys == 0).mean())
    assert take_statistics(table).priorities == []  # with α = 0 none are kept


def test_items_that_go_without_having_been_drawn_are_counted():
    table = filled_table([0.0, 1e9, 0.0, 0.0], alpha=1.0)
    table.sample(100)  # all of them item 1, as good as certainly
    table.insert(random_chunk(np.random.default_rng(0), 3, 1))
    gone = table.evicted
    assert table.summary().evicted_unsampled == gone - 1
    table.check()


def test_a_slot_that_is_used_again_begins_with_no_samples():
    table = filled_table(np.ones(4))
    table.sample(100)
    table.insert(random_chunk(np.random.default_rng(0), 4, 4))
    assert take_statistics(table).times_sampled[0] == 4

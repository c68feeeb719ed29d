"""Priorities of items, and draws in proportion to them."""

from dataclasses import replace

import numpy as np
import pytest

from replay_server.table import PRIORITY_FLOOR
from support.replay import (
    INF,
    NAN,
    chi_square_is_plausible,
    filled_table,
    make_table,
    random_chunk,
)


@pytest.mark.parametrize("reason", ["overwritten", "restarted", "future"])
def test_a_late_priority_is_counted_and_dropped(reason):
    # TRAPS 9: its slot holds another item by now, or its table another incarnation.
    table = filled_table(np.ones(4), incarnation=1)
    keys = np.arange(4)
    if reason == "overwritten":
        table.insert(random_chunk(np.random.default_rng(0), 4, 4, priority=np.ones(4)))
    if reason == "future":
        keys = keys + 4
    before = table.summary()
    counts = table.update_priorities(keys, np.full(4, 50.0), 0 if reason == "restarted" else 1)
    assert (counts.applied, counts.stale, counts.refused) == (0, 4, 0)
    assert table.summary() == replace(before, stale=4)
    # Nor may it raise the maximum that new items get.
    table.insert(random_chunk(np.random.default_rng(0), 4, 4, priority=None))
    assert table.summary().total == pytest.approx(before.total)


def test_of_keys_from_both_sides_of_the_write_pointer_only_the_live_are_updated():
    table = filled_table(np.ones(4), alpha=1.0)
    table.insert(random_chunk(np.random.default_rng(0), 2, 1, priority=np.ones(2)))
    live = list(range(table.oldest, table.inserted))
    counts = table.update_priorities(np.arange(6), np.full(6, 3.0), 0)
    assert (counts.applied, counts.stale) == (len(live), 6 - len(live))
    table.check()
    assert table.summary().total == pytest.approx(3.0 * len(live), rel=1e-5)


@pytest.mark.parametrize("bad", [NAN, INF, -INF, -0.5])
def test_a_priority_that_is_no_size_is_refused_and_counted(bad):
    # TRAPS 11: one NaN in the tree, and no later draw means anything.
    table = filled_table([1.0, 2.0], alpha=1.0)
    before = table.summary().total
    counts = table.update_priorities(np.array([0]), np.array([bad]), 0)
    assert (counts.applied, counts.stale, counts.refused) == (0, 0, 1)
    assert (table.summary().refused, table.summary().total) == (1, before)
    counts = table.update_priorities(np.array([0, 1]), np.array([bad, 4.0]), 0)
    assert (counts.applied, counts.refused) == (1, 1)
    table.check()
    assert table.summary().total == pytest.approx(5.0, rel=1e-5)


@pytest.mark.parametrize("bad", [NAN, INF, -INF, -0.5])
def test_a_new_item_with_a_bad_priority_is_kept_with_the_running_maximum(bad):
    table = make_table(alpha=1.0)
    table.insert(random_chunk(np.random.default_rng(0), 3, 3, priority=[2.0, bad, 5.0]))
    table.check()
    assert len(table) == 3
    assert table.summary().refused == 1
    assert table.summary().total == pytest.approx(2 + 5 + 5, rel=1e-5)


def test_a_new_item_without_priority_gets_the_running_maximum_as_a_float():
    table = make_table(capacity=4, alpha=1.0)

    def insert(priority):
        table.insert(random_chunk(np.random.default_rng(0), 1, 1, priority=priority))
        table.check()
        return float(table.tree.get(np.array([(table.inserted - 1) % 4]))[0])

    assert insert(None) == 1.0 + PRIORITY_FLOOR  # before any is known
    assert insert([0.25]) == 0.25 + PRIORITY_FLOOR
    assert insert(None) == 1.0 + PRIORITY_FLOOR
    assert insert([2.5]) == 2.5 + PRIORITY_FLOOR
    assert insert(None) == 2.5 + PRIORITY_FLOOR
    table.update_priorities(np.array([table.inserted - 1]), np.array([7.75]), 0)
    assert insert(None) == 7.75 + PRIORITY_FLOOR
    # It stays when the item that had it is gone.
    for _ in range(4):
        insert([0.5])
    assert insert(None) == 7.75 + PRIORITY_FLOOR


def test_whole_numbers_as_priorities_do_not_truncate_the_maximum():
    table = make_table(capacity=4, alpha=1.0)
    chunk = random_chunk(np.random.default_rng(0), 2, 2, priority=None)
    chunk.priority = np.array([3, 0], np.int32)
    table.insert(chunk)
    table.update_priorities(np.array([0]), np.array([4], np.int64), 0)
    assert type(table.max_priority) is float
    assert table.summary().total == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_is_applied_once_on_either_way_in(alpha):
    # TRAPS 12: once by insert, once by update, never by both.
    priorities = np.array([0.0, 0.25, 4.0, 16.0])
    expected = (priorities + PRIORITY_FLOOR) ** alpha
    inserted = filled_table(priorities, alpha=alpha)
    updated = filled_table(np.ones(4), alpha=alpha)
    updated.update_priorities(np.arange(4), priorities, 0)
    for table in (inserted, updated):
        np.testing.assert_allclose(table.tree.get(np.arange(4)), expected, rtol=1e-12)
        sample = table.sample(100)
        np.testing.assert_allclose(
            sample.probability, (expected / expected.sum())[sample.key], rtol=1e-12
        )


def test_with_alpha_zero_sampling_is_uniform_whatever_the_priorities():
    table = filled_table([0.0, 1e-3, 1.0, 1e3, 1e6], alpha=0.0)
    sample = table.sample(5000)
    assert (sample.probability == 0.2).all()
    assert chi_square_is_plausible(np.bincount(sample.key, minlength=5), np.full(5, 0.2))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_items_are_drawn_in_proportion_to_their_masses(alpha):
    priorities = np.array([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8])
    table = filled_table(priorities, alpha=alpha)
    probability = (priorities + PRIORITY_FLOOR) ** alpha
    probability /= probability.sum()
    sample = table.sample(20_000)
    counts = np.bincount(sample.key, minlength=len(priorities))
    assert chi_square_is_plausible(counts, probability)
    # The test can tell: the same draws do not pass for another exponent.
    other = priorities ** (alpha - 0.1)
    assert not chi_square_is_plausible(counts, other / other.sum())


def test_draws_are_independent_not_stratified():
    table = filled_table(np.ones(2))
    firsts = np.array([table.sample(2).key for _ in range(2000)])
    same = (firsts[:, 0] == firsts[:, 1]).sum()
    assert abs(same - 1000) < 6 * np.sqrt(2000 * 0.25)


def test_an_item_without_td_error_keeps_a_chance_and_an_evicted_one_has_none():
    table = filled_table(np.zeros(3), alpha=1.0)
    assert set(table.sample(200).key.tolist()) == {0, 1, 2}
    table.insert(random_chunk(np.random.default_rng(0), 1, 3, priority=[0.0]))
    table.check()
    assert set(table.sample(200).key.tolist()) == {3}  # all frames of the others are overwritten


def test_equal_seeds_draw_the_same_and_others_differently():
    keys = [filled_table(np.ones(50), seed=s).sample(20).key.tolist() for s in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]

"""ReplaySampler: shares of the whole memory, weights, priorities, shards that die."""

from dataclasses import replace

import numpy as np
import pytest

from common import wire
from common.errors import EmptyMemoryError
from common.handles import InlineHandle
from common.item import transition_item
from replay_server.messages import encode_chunk
from replay_server.sampler import ReplaySampler
from replay_server.server import ReplayServer
from replay_server.table import PRIORITY_FLOOR
from support.replay import (
    PICTURE,
    HeldHandle,
    chi_square_is_plausible,
    random_chunk,
)
from support.replay_handles import MortalHandle

# The sampler.


def make_shards(priorities, alpha=1.0, seed=3):
    """One shard per list of priorities; the actions number the items over all shards."""
    shards, begin = [], 0
    for index, values in enumerate(priorities):
        shard = ReplayServer(64, PICTURE, transition_item(2), alpha, 256, seed, index)
        if len(values):
            chunk = random_chunk(np.random.default_rng(index), len(values), 5, priority=values)
            chunk.columns["action"] = np.arange(begin, begin + len(values), dtype=np.int32)
            shard.insert(encode_chunk(chunk))
        begin += len(values)
        shards.append(shard)
    return shards


def make_sampler(shards, batch=32, batches=2, window=1, beta=0.4, seed=0, handles=None):
    handles = handles or [InlineHandle(shard) for shard in shards]
    return ReplaySampler(handles, batch, batches, window, beta, np.random.default_rng(seed))


def end_to_end(group, name):
    own = name in ("key", "probability", "age")
    columns = [getattr(sample, name) if own else sample[name] for sample in group.samples]
    return np.concatenate(columns)[group.rows]


UNEQUAL = [
    [0.01, 0.02, 0.03, 0.04],  # 0.1
    [100.0, 200.0, 300.0, 400.0, 500.0],  # 1500
    [1.0, 10.0, 20.0, 30.0],  # 61
]


def test_items_are_drawn_by_their_share_of_the_whole_memory():
    # TRAPS 12: with shards of very unequal totals; drawing shards uniformly fails by far.
    priorities = [[1.0, 2.0, 4.0], [40.0, 80.0, 10.0, 30.0], [300.0, 500.0], [7.0]]
    shards = make_shards(priorities)
    sampler = make_sampler(shards, batch=500, batches=8, window=2)
    counts = np.zeros(10)
    for _ in range(25):
        counts += np.bincount(end_to_end(sampler.next_group(), "action").ravel(), minlength=10)
    assert counts.sum() == 100_000
    masses = np.concatenate(priorities) + PRIORITY_FLOOR
    assert chi_square_is_plausible(counts, masses / masses.sum())
    shard_first = np.concatenate([np.array(p) / sum(p) / len(priorities) for p in priorities])
    assert not chi_square_is_plausible(counts, shard_first)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_use_n_and_p_of_the_whole_memory(alpha, beta):
    shards = make_shards(UNEQUAL, alpha)
    sampler = make_sampler(shards, batch=64, batches=4, window=2, beta=beta)
    masses = (np.concatenate(UNEQUAL).astype(np.float32) + PRIORITY_FLOOR) ** alpha
    probability = masses / masses.sum()
    for _ in range(3):
        group = sampler.next_group()
        expected = (len(masses) * probability[end_to_end(group, "action")]) ** -beta
        expected /= expected.max(axis=1, keepdims=True)
        np.testing.assert_allclose(group.weights, expected, rtol=1e-5)
        assert group.weights.dtype == np.float32
        assert (group.weights.max(axis=1) == 1).all()


def test_weights_are_exact_also_when_the_totals_known_are_stale():
    # Shard 1 shrinks from 1500 to 0.1 behind the sampler's back. Until it hears of that it draws
    # too often from there, and the weights must say so: P is the chance an item really had.
    shards = make_shards(UNEQUAL)
    sampler = make_sampler(shards, batch=256, batches=2, window=1, beta=1.0)
    sampler.next_group()
    known = np.array([shard.summary().total for shard in shards])
    shards[1].update_priorities(np.arange(5), np.full(5, 0.02), 0)
    masses = [np.array(UNEQUAL[0]), np.full(5, 0.02), np.array(UNEQUAL[2])]
    masses = [values + PRIORITY_FLOOR for values in masses]

    def check(totals):
        probability = np.concatenate(
            [m / m.sum() * t / totals.sum() for m, t in zip(masses, totals, strict=True)]
        )
        group = sampler.next_group()
        action = end_to_end(group, "action")
        expected = 1 / probability[action]
        expected /= expected.max(axis=1, keepdims=True)
        np.testing.assert_allclose(group.weights, expected, rtol=1e-5)
        return action

    action = check(known)
    assert ((action >= 4) & (action < 9)).mean() > 0.9  # as the stale totals had it
    action = check(np.array([values.sum() for values in masses]))  # it has heard by now
    assert ((action >= 4) & (action < 9)).mean() < 0.05


def test_weights_correct_the_bias_of_stale_totals():
    # With beta 1 the weighted mean over draws is the plain mean over the memory, whatever P was.
    shards = make_shards([[1.0, 2.0, 3.0], [1.0, 1.0, 4.0, 2.0]])
    sampler = make_sampler(shards, batch=4000, batches=1, window=1, beta=1.0)
    for n in range(6):
        shards[n % 2].update_priorities(np.arange(3), np.array([3.0, 1.0, 2.0]) * (n + 1), 0)
        group = sampler.next_group()
        value = end_to_end(group, "action")[0].astype(float)
        mean = np.average(value, weights=group.weights[0])
        # The standard error is below 0.07: values spread by 2, weights by a factor below 25.
        assert abs(mean - 3.0) < 0.4


def test_a_shard_that_holds_nothing_yet_is_no_obstacle():
    shards = make_shards([[], [1.0, 2.0], []])
    sampler = make_sampler(shards)
    for _ in range(3):
        group = sampler.next_group()
        assert set(np.unique(end_to_end(group, "action"))) <= {0, 1}
        sampler.update_priorities(group, np.ones(group.rows.shape))


def test_a_shard_that_is_rarely_drawn_from_is_heard_all_the_same():
    # Its total may grow: one that is never asked would be left out for ever.
    shards = make_shards([[1e-6], [1e6]])
    sampler = make_sampler(shards, batch=8, batches=1)
    sampler.next_group()
    shards[0].update_priorities(np.array([0]), np.array([1e12]), 0)
    sampler.next_group()
    assert (end_to_end(sampler.next_group(), "action") == 0).all()


def test_an_empty_memory_is_an_error_and_a_filled_one_is_none_afterwards():
    shards = make_shards([[], []])
    sampler = make_sampler(shards)
    with pytest.raises(ValueError, match="no reachable shard holds an item"):
        sampler.next_group()
    chunk = random_chunk(np.random.default_rng(0), 2, 2)
    shards[1].insert(encode_chunk(chunk))
    assert len(end_to_end(sampler.next_group(), "action")) == 2


def test_rows_lead_to_the_items_in_the_order_they_were_drawn():
    # Batches must not be sorted by shard: each is a sample of the whole memory.
    shards = make_shards([[1.0] * 8, [1.0] * 8])
    group = make_sampler(shards, batch=16, batches=8).next_group()
    assert group.rows.shape == (8, 16)
    assert sorted(group.rows.ravel().tolist()) == list(range(128))
    from_second = (end_to_end(group, "action") >= 8).mean(axis=1)
    assert (from_second > 0).all()
    assert (from_second < 1).all()


def test_all_columns_of_a_row_belong_to_one_item():
    shards = make_shards(UNEQUAL)
    group = make_sampler(shards, batch=64).next_group()
    action, key = end_to_end(group, "action"), end_to_end(group, "key")
    first = np.repeat([0, 4, 9], [4, 5, 4])
    assert np.array_equal(key, action - first[action])


def test_ages_count_inserts_over_all_shards():
    # 4 + 12 inserted: since the oldest item of the small shard, 16 over both.
    shards = make_shards([[1.0] * 4, [1.0] * 12])
    group = make_sampler(shards, batch=64).next_group()
    action, ages = end_to_end(group, "action"), group.ages
    assert ages.dtype == np.int64
    small = action < 4
    assert np.array_equal(ages[small], (4 - action[small]) * 4)
    large = (16 - action[~small]) * 16 / 12
    assert np.array_equal(ages[~small], large.astype(np.int64))


def test_priorities_go_back_to_the_very_items_they_are_of():
    shards = make_shards([[1.0] * 5, [2.0] * 9, [3.0] * 7])
    sampler = make_sampler(shards, batch=64, batches=3)
    group = sampler.next_group()
    action = end_to_end(group, "action")
    assert len(np.unique(action)) == 21
    sampler.update_priorities(group, 10.0 + action)
    for shard, first, count in zip(shards, (0, 5, 14), (5, 9, 7), strict=True):
        shard.check()
        masses = shard._table.tree.get(np.arange(count))
        np.testing.assert_allclose(masses, 10.0 + first + np.arange(count), rtol=1e-6)
        assert shard.summary().stale == 0


def test_priorities_for_a_shard_that_was_restarted_are_dropped_and_counted():
    shards = make_shards([[1.0] * 4])
    handle = InlineHandle(shards[0])
    sampler = make_sampler(shards, batch=8, batches=1, handles=[handle])
    group = sampler.next_group()
    restarted = ReplayServer(64, PICTURE, transition_item(2), 1.0, 256, 3, 0, incarnation=1)
    restarted.insert(encode_chunk(random_chunk(np.random.default_rng(0), 4, 4)))
    before = restarted.summary()
    handle._target = restarted
    sampler.update_priorities(group, np.full((1, 8), 99.0))
    assert restarted.summary() == replace(before, stale=8)


def test_a_nan_priority_stops_at_the_shards_door():
    shards = make_shards([[1.0] * 4, [1.0] * 4])
    sampler = make_sampler(shards, batch=16, batches=1)
    group = sampler.next_group()
    sampler.update_priorities(group, np.full((1, 16), np.nan))
    assert sum(shard.summary().refused for shard in shards) == 16
    assert [shard.summary().total for shard in shards] == pytest.approx([4.0, 4.0], rel=1e-5)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_rounds_and_updates_under_way_stay_bounded(window):
    # TRAPS 22: at most `window` messages of each kind per shard, however long it runs.
    shards = make_shards([[1.0] * 4, [1.0] * 4])
    asked = [HeldHandle(shard, ("sample",)) for shard in shards]
    sampler = make_sampler(shards, batch=32, window=window, handles=asked)
    for _ in range(10):
        sampler.next_group()
        assert sampler.in_flight <= window
    assert [handle.peak for handle in asked] == [window, window]
    updated = [HeldHandle(shard, ("update_priorities",)) for shard in shards]
    sampler = make_sampler(shards, batch=32, window=window, handles=updated)
    for _ in range(10):
        group = sampler.next_group()
        sampler.update_priorities(group, np.ones(group.rows.shape))
        assert all(len(handle.outstanding) <= window for handle in updated)
    assert all(handle.peak <= window + 1 for handle in updated)
    assert updated[0].waited_for == sorted(updated[0].waited_for)  # the oldest first
    assert len(updated[0].waited_for) == 10 - window


def test_rounds_are_asked_for_ahead_and_taken_in_their_order():
    shards = make_shards([[1.0] * 4])
    handle = HeldHandle(shards[0], ("sample",))
    sampler = make_sampler(shards, batch=4, batches=1, window=3, handles=[handle])
    expected = []
    for number in range(5):
        group = sampler.next_group()
        assert handle.waited_for == list(range(number + 1))
        assert len(handle.futures) >= number + 3 - 1
        expected.append(handle.futures[number].value)
        received = wire.decode(expected[-1])[0]
        assert np.array_equal(received["key"], group.samples[0].key)


def test_one_message_per_shard_asks_for_a_whole_round():
    shards = make_shards([[1.0] * 4, [1.0] * 4])
    handles = [HeldHandle(shard, ("sample",)) for shard in shards]
    make_sampler(shards, batch=16, batches=8, handles=handles).next_group()
    asked = [[arguments[0] for _, arguments in handle.calls] for handle in handles]
    assert [len(counts) for counts in asked] == [1, 1]
    assert sum(counts[0] for counts in asked) == 128


def test_equal_seeds_draw_the_same_rounds():
    def actions(seed):
        sampler = make_sampler(make_shards(UNEQUAL), seed=seed)
        return [end_to_end(sampler.next_group(), "action").tolist() for _ in range(3)]

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)


def test_the_newest_summary_of_every_shard_is_at_hand():
    # TRAPS 25: statistics come from all shards.
    shards = make_shards([[1.0] * 4, [1.0] * 6])
    sampler = make_sampler(shards)
    sampler.next_group()
    assert [summary.shard for summary in sampler.summaries] == [0, 1]
    assert [summary.size for summary in sampler.summaries] == [4, 6]
    assert sum(summary.sampled for summary in sampler.summaries) == 64
    assert sampler.summaries == [shard.summary() for shard in shards]


# Shards that die.


def mortal(shards):
    return [MortalHandle(shard) for shard in shards]


def test_without_a_dead_shard_items_are_drawn_by_their_share_of_those_that_are_there():
    priorities = [[1.0, 2.0, 4.0], [40.0, 80.0, 10.0, 30.0], [300.0, 500.0], [7.0]]
    shards = make_shards(priorities)
    handles = mortal(shards)
    sampler = make_sampler(shards, batch=500, batches=8, window=2, beta=1.0, handles=handles)
    sampler.next_group()
    handles[2].die()
    counts = np.zeros(10)
    masses = np.concatenate(priorities).astype(np.float32) + PRIORITY_FLOOR
    masses[7:9] = 0
    probability = masses / masses.sum()
    for _ in range(25):
        group = sampler.next_group()
        action = end_to_end(group, "action")
        counts += np.bincount(action.ravel(), minlength=10)
        expected = 1 / probability[action]
        expected /= expected.max(axis=1, keepdims=True)
        np.testing.assert_allclose(group.weights, expected, rtol=1e-5)
    assert sampler.unreachable == {2}
    assert counts[7:9].sum() == 0
    there = masses > 0
    assert chi_square_is_plausible(counts[there], probability[there])
    assert [summary.shard for summary in sampler.summaries] == [0, 1, 3]


def test_rounds_under_way_are_discarded_when_a_shard_dies_and_whole_ones_asked_for():
    shards = make_shards(UNEQUAL)
    handles = mortal(shards)
    sampler = make_sampler(shards, batch=32, batches=2, window=3, handles=handles)
    sampler.next_group()
    assert sampler.in_flight == 2
    handles[1].die()  # most of what is under way was drawn there
    group = sampler.next_group()
    assert group.rows.shape == (2, 32)
    assert {sample.summary.shard for sample in group.samples} == {0, 2}
    assert sum(len(sample.key) for sample in group.samples) == 64
    assert sampler.unreachable == {1}
    assert sampler.in_flight == 2
    sampler.update_priorities(group, np.ones((2, 32)))


def test_priorities_for_a_shard_that_died_meanwhile_are_no_error():
    shards = make_shards(UNEQUAL)
    handles = mortal(shards)
    sampler = make_sampler(shards, window=1, handles=handles)
    for _ in range(3):
        group = sampler.next_group()
        handles[1].die()
        sampler.update_priorities(group, np.ones(group.rows.shape))
    assert sampler.unreachable == {1}


def test_a_shard_that_takes_a_dead_ones_place_is_drawn_from_as_soon_as_it_holds_something():
    shards = make_shards([[1.0] * 4, [1.0] * 4])
    handles = mortal(shards)
    sampler = make_sampler(shards, batch=64, window=3, handles=handles)
    sampler.next_group()
    handles[1].die()
    sampler.next_group()
    back = ReplayServer(64, PICTURE, transition_item(2), 1.0, 256, 3, 1, incarnation=5)
    sampler.reconnect(1, MortalHandle(back))
    assert (sampler.unreachable, sampler.in_flight) == (set(), 0)
    assert {s.summary.shard for s in sampler.next_group().samples if len(s.key)} == {0}
    back.insert(encode_chunk(random_chunk(np.random.default_rng(0), 4, 4, priority=[100.0] * 4)))
    for _ in range(2 * 3):  # it hears of that with an answer, and has three rounds under way
        group = sampler.next_group()
    (newest,) = [s for s in group.samples if s.summary.shard == 1]
    assert len(newest.key) > 64
    assert newest.summary.incarnation == 5
    sampler.update_priorities(group, np.ones(group.rows.shape))
    assert back.summary().stale == 0


def test_without_any_shard_there_is_nothing_to_sample_and_that_is_said_at_once():
    shards = make_shards([[1.0] * 4, [1.0] * 4])
    handles = mortal(shards)
    sampler = make_sampler(shards, window=2, handles=handles)
    sampler.next_group()
    for handle in handles:
        handle.die()
    for _ in range(3):
        with pytest.raises(EmptyMemoryError, match="no reachable shard holds an item"):
            sampler.next_group()
    assert sampler.unreachable == {0, 1}
    assert sampler.summaries == []
    empty = ReplayServer(64, PICTURE, transition_item(2), 1.0, 256, 3, 0, incarnation=1)
    sampler.reconnect(0, MortalHandle(empty))
    with pytest.raises(EmptyMemoryError):
        sampler.next_group()
    empty.insert(encode_chunk(random_chunk(np.random.default_rng(0), 4, 4)))
    assert {sample.summary.shard for sample in sampler.next_group().samples} == {0}

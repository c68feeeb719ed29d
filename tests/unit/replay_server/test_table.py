import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import types
from common.errors import UnknownFramesError
from common.types import PAD, TIMES, FrameSpec
from replay_server.codec import GROUP_FRAMES, Codec
from replay_server.frames import make_frame_store
from replay_server.table import PRIORITY_FLOOR, Table
from replay_server.table_statistics import take_statistics
from support.hypothesis_profiles import examples
from support.replay import (
    PICTURE,
    VECTOR,
    NaiveTable,
    assert_same_as_twin,
    chi_square_is_plausible,
    columns_of,
    count_calls,
    filled_table,
    make_table,
    random_chunk,
)

NAN, INF = float("nan"), float("inf")
PRIORITIES = st.one_of(
    st.floats(0, 10, width=32), st.sampled_from([0.0, 1e-7, 1e3, NAN, INF, -INF, -1.0])
)


@st.composite
def histories(draw):
    """Sizes of a table, and what happens to it: far more than either of its rings holds."""
    capacity = draw(st.integers(1, 12))
    frame_capacity = draw(st.integers(1, 24))
    count = st.integers(0, capacity)
    insert = st.tuples(
        st.just("insert"),
        count,
        st.integers(0, frame_capacity),
        st.one_of(st.none(), st.lists(PRIORITIES, min_size=capacity, max_size=capacity)),
    )
    update = st.tuples(
        st.just("update"),
        # Keys relative to the newest: some of the future, some long gone, some named twice.
        st.lists(
            st.tuples(st.integers(-2 * capacity, 2), PRIORITIES), min_size=0, max_size=capacity
        ),
        st.sampled_from([3, 3, 3, 2, 4]),
    )
    operations = draw(st.lists(st.one_of(insert, insert, update), min_size=1, max_size=25))
    return capacity, frame_capacity, operations


@given(
    histories(),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([PICTURE, VECTOR]),
    st.sampled_from(["none", "none", "lz4", "zstd"]),
    st.integers(0, 2**32 - 1),
)
@examples(200)
def test_it_is_equal_to_a_twin_that_stores_whole_stacks(
    history, stack, alpha, spec, compression, seed
):
    # TRAPS 3, 9, 10, 11: stacks bit for bit, across the ends of both rings, with late and bad
    # priorities in between, frames of chunks before, as they are and compressed.
    capacity, frame_capacity, operations = history
    rng = np.random.default_rng(seed)
    table = make_table(
        capacity, frame_capacity, stack, alpha, seed, spec, compression, incarnation=3
    )
    group = 1 if compression == "none" else GROUP_FRAMES
    twin = NaiveTable(capacity, frame_capacity, stack, alpha, incarnation=3, group=group)
    orphaned = 0
    numbers = [0, 0]  # of two streams
    for operation in operations:
        if operation[0] == "insert":
            _, count, frames, priority = operation
            stream = int(rng.integers(2))
            named = len(twin.streams.get(stream, ()))
            reused = rng.integers(0, named, rng.integers(0, named + 1)) if named else []
            chunk = random_chunk(
                rng,
                count,
                len(reused) + frames,
                stack,
                spec,
                None if priority is None else priority[:count],
            )
            chunk.frames = chunk.frames[len(reused) :]
            chunk.reused = np.array(reused, np.int32)
            chunk.stream, chunk.number = stream, numbers[stream] + 1
            sent = chunk
            if compression != "none":
                sent = replace(chunk, frames=Codec(compression, spec).pack(chunk.frames))
            try:
                evicted = table.insert(sent)
            except UnknownFramesError:
                oldest = min(twin.streams[stream][i][1] for i in reused)
                rows = twin.copied_rows(chunk) + twin.round_up(frames)
                assert rows > table.frame_capacity or oldest < table.frames.first, "it has them"
                orphaned += count
            else:
                assert evicted == twin.insert(chunk)
                numbers[stream] += bool(count)
            assert table.summary().orphaned == orphaned
        else:
            _, pairs, incarnation = operation
            keys = np.array([twin.inserted + back for back, _ in pairs], np.int64)
            priorities = np.array([priority for _, priority in pairs], np.float64)
            stale, refused, live = twin.stale, twin.refused, len(keys)
            twin.update_priorities(keys, priorities, incarnation)
            counts = table.update_priorities(keys, priorities, incarnation)
            assert counts.stale == twin.stale - stale
            assert counts.refused == twin.refused - refused
            assert counts.applied == live - counts.stale - counts.refused
        table.check()
        assert_same_as_twin(table, twin)


def test_both_rings_wrap_many_times_and_every_stack_stays_whole():
    rng = np.random.default_rng(0)
    table, twin = make_table(10, 23, stack=3), NaiveTable(10, 23, 3, 0.6)
    for _ in range(200):
        chunk = random_chunk(rng, int(rng.integers(1, 6)), int(rng.integers(1, 9)), stack=3)
        assert table.insert(chunk) == twin.insert(chunk)
        table.check()
        assert_same_as_twin(table, twin, draws=16)
    assert twin.inserted > 20 * table.capacity
    assert twin.frames_written > 20 * table.frame_capacity


def test_an_empty_table_has_nothing_to_sample_but_a_summary():
    table = make_table(shard=2, incarnation=5)
    with pytest.raises(ValueError, match="empty"):
        table.sample(1)
    sample = table.sample(0)
    assert len(sample) == 0
    assert sample.frames.shape == (0, *PICTURE.shape)
    summary = sample.summary
    assert (summary.shard, summary.incarnation, summary.total, summary.size) == (2, 5, 0.0, 0)
    assert summary.sampled == 0
    table.check()


def test_padding_is_a_frame_of_zeros():
    table = make_table(stack=3, capacity=1)
    chunk = random_chunk(np.random.default_rng(0), 1, 2, stack=3)
    chunk.frames[:] = 255
    chunk.observation[:] = [[PAD, PAD, 0]]
    chunk.next_observation[:] = [[PAD, 0, 1]]
    table.insert(chunk)
    sample = table.sample(1)
    assert sample.frames[sample.observation[0]].max(axis=(1, 2, 3)).tolist() == [0, 0, 255]
    assert sample.frames[sample.next_observation[0]].max(axis=(1, 2, 3)).tolist() == [0, 255, 255]


def test_a_sample_carries_each_frame_once():
    larger = FrameSpec((1, 16, 16), "uint8", 1 / 255)  # the very small may come twice
    table = filled_table(np.ones(4), stack=2, spec=larger)
    sample = table.sample(256)
    assert len(sample.frames) <= 4 + 1  # the frames of the table, and the zeros
    assert sample.observation.dtype == np.int32
    assert sample.observation.max() < len(sample.frames)


def test_a_samples_arrays_are_its_own():
    # What was sampled must not change while the table is written on: sampling is pipelined.
    table = filled_table(np.ones(4))
    sample = table.sample(64)
    before = {name: np.array(getattr(sample, name)) for name in ("frames", "action", "reward")}
    chunk = random_chunk(np.random.default_rng(9), 4, 4)
    chunk.action[:] = 999
    table.insert(chunk)
    for name, array in before.items():
        assert np.array_equal(getattr(sample, name), array)


def test_read_only_arrays_are_copied_in_and_no_view_of_them_is_kept():
    # TRAPS 15: arrays of Ray's are read-only, and any view of them pins shared memory.
    rng = np.random.default_rng(0)
    table, twin = make_table(8, 8), NaiveTable(8, 8, 2, 0.6)
    chunk = random_chunk(rng, 8, 8)
    columns = {n: c for n, c in columns_of(chunk).items() if n != "reused"}
    sources = {name: array.copy() for name, array in columns.items()}
    views = {name: array.view() for name, array in sources.items()}
    for view in views.values():
        view.flags.writeable = False
    table.insert(replace(chunk, **views))
    twin.insert(chunk)
    for array in sources.values():
        array[:] = 77 if array.dtype.kind != "f" else -0.5
    table.check()
    assert_same_as_twin(table, twin, draws=64)
    parts = (table, table.tree, table.frames, table.numbering)
    held = [a for part in parts for a in vars(part).values() if isinstance(a, np.ndarray)]
    held += [numbers for _, numbers in table.streams.newest.values()]
    assert len(held) == 9
    for array in held:
        assert array.flags.writeable
        assert not any(np.shares_memory(array, source) for source in sources.values())


def test_read_only_priority_updates_are_copied_in():
    table = filled_table([1.0, 1.0])
    keys, priorities = np.array([0, 1]), np.array([3.0, 5.0])
    keys.flags.writeable = priorities.flags.writeable = False
    table.update_priorities(keys, priorities, 0)
    table.check()
    assert table.summary().total == pytest.approx(3**0.6 + 5**0.6, rel=1e-5)


@pytest.mark.parametrize("reason", ["overwritten", "restarted", "future"])
def test_a_late_priority_is_counted_and_dropped(reason):
    # TRAPS 9: its slot holds another item by now, or its table another life.
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


def test_when_frames_run_out_first_the_oldest_chunks_go_whole():
    table = make_table(capacity=100, frame_capacity=10)
    rng = np.random.default_rng(0)
    for _ in range(2):
        assert table.insert(random_chunk(rng, 3, 5)) == 0
    assert table.insert(random_chunk(rng, 1, 1)) == 3
    table.check()
    assert (table.oldest, len(table), table.evicted) == (3, 4, 3)


def test_a_chunk_as_large_as_the_table_replaces_everything():
    table, twin = make_table(8, 32), NaiveTable(8, 32, 2, 0.6)
    rng = np.random.default_rng(0)
    for count, frames in ((3, 5), (8, 32), (8, 32), (1, 1)):
        chunk = random_chunk(rng, count, frames)
        assert table.insert(chunk) == twin.insert(chunk)
        table.check()
        assert_same_as_twin(table, twin)


def test_an_empty_chunk_changes_nothing():
    table = filled_table(np.ones(3))
    before = table.summary()
    assert table.insert(random_chunk(np.random.default_rng(0), 0, 2)) == 0
    assert table.summary() == before
    table.check()


BROKEN_CHUNKS = {
    "too many transitions": (lambda c: random_chunk(np.random.default_rng(0), 9, 2), "9 trans"),
    "too many frames": (lambda c: random_chunk(np.random.default_rng(0), 1, 33), "33 frames"),
    "another frame shape": (lambda c: replace(c, frames=c.frames[..., :1]), "frames of shape"),
    "another frame type": (lambda c: replace(c, frames=c.frames.astype("f4")), "frames of float32"),
    "another stack": (lambda c: replace(c, observation=c.observation[:, :1]), r"stacks \(2, 1\)"),
    "a next stack short": (
        lambda c: replace(c, next_observation=c.next_observation[:1]),
        r"stacks \(1, 2\)",
    ),
    "a frame beyond": (lambda c: replace(c, observation=c.observation * 0 + 3), "outside"),
    "a frame below": (lambda c: replace(c, next_observation=c.observation * 0 - 2), "outside"),
    "stacks of floats": (lambda c: replace(c, observation=c.observation * 0.0), "stack"),
    "stacks of booleans": (lambda c: replace(c, observation=c.observation > 0), "stack"),
    "stacks without a sign": (lambda c: replace(c, observation=c.observation.astype("u8")), "sign"),
    "reused of 64 bits": (lambda c: replace(c, reused=np.zeros(0, np.int64)), "reused frames of"),
    "rewards per what": (lambda c: replace(c, reward=np.zeros((2, 3), np.float32)), "reward"),
    "actions per what": (lambda c: replace(c, action=np.zeros((2, 2), np.int32)), "action"),
    "discounts missing": (lambda c: replace(c, discount=c.discount[:1]), "discount"),
    "priorities per what": (lambda c: replace(c, priority=np.ones((2, 2))), "priority"),
}


@pytest.mark.parametrize("what", BROKEN_CHUNKS)
def test_a_chunk_that_does_not_fit_is_refused_and_the_table_stays_as_it_was(what):
    rng = np.random.default_rng(0)
    table, twin = make_table(8, 32), NaiveTable(8, 32, 2, 0.6)
    for _ in range(3):  # full: a chunk that is refused too late has pushed out something
        chunk = random_chunk(rng, 4, 9)
        table.insert(chunk)
        twin.insert(chunk)
    damage, message = BROKEN_CHUNKS[what]
    with pytest.raises(ValueError, match=message):
        table.insert(damage(random_chunk(rng, 2, 3)))
    table.check()
    assert_same_as_twin(table, twin)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"capacity": 0}, "capacity=0: must be at least 1"),
        ({"frame_capacity": 0}, "frame_capacity=0: must be between 1 and"),
        ({"stack": 0}, "stack=0: must be at least 1"),
        ({"alpha": 1.5}, "alpha=1.5: must be between 0 and 1"),
        ({"alpha": -0.1}, "alpha=-0.1: must be between 0 and 1"),
        ({"alpha": NAN}, "alpha=nan: must be between 0 and 1"),
    ],
)
def test_impossible_sizes_are_refused_by_name(named, message):
    with pytest.raises(ValueError, match=message):
        make_table(**named)


def test_its_bytes_are_those_of_its_arrays():
    table = make_table(capacity=1000, frame_capacity=1100, stack=4)
    assert table.nbytes == 0
    rng = np.random.default_rng(0)
    for _ in range(30):
        table.insert(random_chunk(rng, 50, 50, stack=4))
    parts = (table, table.tree, table.frames, table.numbering)
    arrays = [a for part in parts for a in vars(part).values() if isinstance(a, np.ndarray)]
    held = [array for array in arrays if array.base is None]
    assert len(held) == 6
    assert table.nbytes == pytest.approx(sum(array.nbytes for array in held), rel=0.02)
    assert table.summary().nbytes == table.nbytes


def test_sampling_makes_as_many_calls_for_4096_items_as_for_32():
    # TRAPS 13: no Python loop over the items of a batch.
    table = filled_table(np.random.default_rng(0).random(5000), frame_capacity=6000)
    table.sample(1)
    assert count_calls(lambda: table.sample(32)) == count_calls(lambda: table.sample(4096))


def test_inserting_and_updating_do_not_loop_over_items():
    table = make_table(capacity=1 << 14, frame_capacity=1 << 14)
    rng = np.random.default_rng(0)
    table.insert(random_chunk(rng, 1 << 14, 1 << 14))

    def insert(count):
        chunk = random_chunk(rng, count, count)
        return count_calls(lambda: table.insert(chunk))

    def update(count):
        keys = table.inserted - 1 - np.arange(count)
        return count_calls(lambda: table.update_priorities(keys, np.ones(count), 0))

    # The tree removes doubles on some levels only, hence the factor; a loop would give 128.
    assert insert(4096) < 8 * insert(32)
    assert update(4096) < 8 * update(32)


@pytest.mark.parametrize("frames", [8, 64])
def test_eviction_costs_what_is_evicted_not_what_is_held(frames):
    # TRAPS 13: counted in leaves set, calls made, and memory touched for the while.
    capacity = 1 << 16
    vector = FrameSpec((1,), "float32", 1.0)
    table = Table(capacity, vector, 1, 0.6, 8 * capacity, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for _ in range(capacity // 4096):
        table.insert(random_chunk(rng, 4096, 4096, 1, vector))
    leaves_set = []
    tree_set = table.tree.set
    table.tree.set = lambda leaves, masses, checked: (
        leaves_set.append(len(leaves)),
        tree_set(leaves, masses, checked),
    )
    chunk = random_chunk(rng, 8, frames, 1, vector)
    calls = count_calls(lambda: table.insert(chunk))
    assert table.evicted == 8
    assert leaves_set == [8]  # those that come, in the places of those that go
    assert calls < 1000
    tracemalloc.start()
    try:
        table.insert(chunk)
        assert tracemalloc.get_traced_memory()[1] < capacity
    finally:
        tracemalloc.stop()


def test_no_state_is_left_from_the_last_sample():
    # TRAPS 9: rounds are pipelined, so priorities of one come after the next was drawn.
    table = filled_table(np.ones(8), alpha=1.0)
    first, second = table.sample(4), table.sample(4)
    table.update_priorities(second.key, np.full(4, 2.0), 0)
    table.update_priorities(first.key, np.full(4, 3.0), 0)
    table.check()
    mass = np.ones(8)
    mass[second.key] = 2.0
    mass[first.key] = 3.0
    np.testing.assert_allclose(table.tree.get(np.arange(8)), mass, rtol=1e-5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.tree.set(np.array([t.oldest % t.capacity]), np.zeros(1)),
        lambda t: t.tree.set(np.array([(t.oldest - 1) % t.capacity]), np.ones(1)),
        lambda t: t.frames._rows.__setitem__(-1, 1),
        lambda t: t.items["stacks"].__setitem__(t.oldest % t.capacity, t.frame_capacity + 1),
        lambda t: t.items["stacks"].__setitem__(t.oldest % t.capacity, 20),  # not written yet
        lambda t: setattr(t.frames, "written", t.frames.written + t.frame_capacity),
        lambda t: setattr(t.frames, "first", 3),
        lambda t: setattr(t, "oldest", t.inserted + 1),
    ],
)
def test_check_finds_what_it_is_for(damage):
    table = make_table(capacity=8, frame_capacity=32)
    table.insert(random_chunk(np.random.default_rng(0), 5, 5))
    table.check()
    damage(table)
    with pytest.raises(AssertionError):
        table.check()


@pytest.mark.parametrize("count", [1, 2, 37, 38, 150, 151])  # 28,224 bytes each: 38 are 1 MiB
def test_frames_are_gathered_right_however_many(count):
    frame = FrameSpec((4, 84, 84), "uint8", 1.0)
    store = make_frame_store(frame, 200, None)
    frames = np.random.default_rng(0).integers(0, 256, (200, 4, 84, 84), dtype=np.uint8)
    store.write(frames)
    rows = np.sort(np.random.default_rng(1).choice(200, count, replace=False))
    out = np.empty((count, 4, 84, 84), np.uint8)
    store.gather(rows, out)
    np.testing.assert_array_equal(out, frames[rows])


# Frames of chunks before, bytes, statistics.


def stream_of(chunks, rng=None, count=4, frames=6, spec=PICTURE):
    """Chunks of one stream, each reusing the last two frames of the one before."""
    rng = rng or np.random.default_rng(0)
    for number in range(1, chunks + 1):
        chunk = random_chunk(rng, count, frames, spec=spec)
        if number > 1:
            chunk.frames = chunk.frames[2:]
            chunk.reused = np.array([frames - 2, frames - 1], np.int32)
        yield replace(chunk, stream=5, number=number)


@pytest.mark.parametrize(
    "why", ["unknown stream", "a chunk is missing", "a frame is not there", "a frame below 0"]
)
def test_a_chunk_that_reuses_what_is_not_here_is_refused_whole_and_counted(why):
    table, chunks = make_table(capacity=50, frame_capacity=100), list(stream_of(3))
    if why != "unknown stream":
        table.insert(chunks[0])
    chunk = chunks[2] if why == "a chunk is missing" else chunks[1]
    if why == "a frame is not there":
        chunk = replace(chunk, reused=np.array([5, 6], np.int32))
    if why == "a frame below 0":
        chunk = replace(chunk, reused=np.array([5, -1], np.int32))
    before = table.summary()
    with pytest.raises(UnknownFramesError, match=f"chunk {chunk.number} of stream 5"):
        table.insert(chunk)
    assert table.summary() == replace(before, orphaned=4)
    table.check()
    # The stream goes on with a chunk that brings all its frames.
    whole = replace(next(stream_of(1)), number=9)
    assert table.insert(whole) == 0
    assert table.insert(replace(chunks[1], number=10)) == 0
    table.check()


def test_a_chunk_of_an_earlier_life_of_its_actor_is_no_continuation():
    table, chunks = make_table(capacity=50, frame_capacity=100), list(stream_of(2))
    table.insert(chunks[0])
    table.insert(replace(next(stream_of(1)), number=(1 << 32) + 1))  # the actor was replaced
    with pytest.raises(UnknownFramesError):
        table.insert(chunks[1])  # and then a last message of its former life comes in


def test_frames_of_a_stream_are_kept_once():
    table = make_table(capacity=400, frame_capacity=500)
    for chunk in stream_of(100):
        table.insert(chunk)
        table.check()
    assert table.evicted == 0
    assert table.nbytes - len(table) * table.item_bytes == (6 + 99 * 4) * PICTURE.nbytes


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd", "png"])
def test_bytes_stay_below_their_bound_and_what_is_left_is_whole(compression):
    larger = FrameSpec((1, 12, 12), "uint8", 1 / 255)
    codec = None if compression == "none" else Codec(compression, larger)
    bound = 9_000
    table = make_table(
        1000, 5000, spec=larger, compression=compression, max_frame_bytes=bound, incarnation=3
    )
    group = 1 if codec is None else GROUP_FRAMES
    twin = NaiveTable(1000, 5000, 2, 0.6, incarnation=3, group=group)
    evicted = 0
    for chunk in stream_of(60, spec=larger):
        sent = chunk if codec is None else replace(chunk, frames=codec.pack(chunk.frames))
        evicted += table.insert(sent)
        twin.insert(chunk)
        twin.items = {k: item for k, item in twin.items.items() if k >= table.oldest}
        table.check()
        assert table.nbytes - len(table) * table.item_bytes <= bound
        assert_same_as_twin(table, twin)
    assert evicted == table.evicted > 100
    assert table.nbytes > bound / 2, "more went than had to"


def test_a_chunk_larger_than_all_bytes_is_refused():
    table = make_table(capacity=50, frame_capacity=50, max_frame_bytes=10)
    with pytest.raises(ValueError, match=r"\(16 bytes\): the table holds 50 and 50 \(10 bytes\)"):
        table.insert(random_chunk(np.random.default_rng(0), 4, 4))
    table.check()


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_frames_of_the_other_kind_are_refused(compression):
    chunk = random_chunk(np.random.default_rng(0), 2, 3)
    if compression == "none":
        chunk.frames = Codec("lz4", PICTURE).pack(chunk.frames)
    with pytest.raises(ValueError, match="this table keeps them"):
        make_table(compression=compression).insert(chunk)


def test_sizes_of_groups_that_do_not_add_up_are_refused():
    table, chunk = make_table(compression="lz4"), random_chunk(np.random.default_rng(0), 2, 7)
    packed = Codec("lz4", PICTURE).pack(chunk.frames)
    for broken in (
        replace(packed, sizes=packed.sizes + 1),
        replace(packed, sizes=packed.sizes[:1]),
        replace(packed, count=11),
        replace(packed, sizes=np.array([len(packed.data) + 1, -1], np.int32)),
    ):
        with pytest.raises(ValueError, match=r"groups|bytes of frames"):
            table.insert(replace(chunk, frames=broken))
    table.check()


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
    chunk.version = np.array([3, 9])
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


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_frames_that_went_for_lack_of_bytes_are_not_reused(compression):
    larger = FrameSpec((1, 12, 12), "uint8", 1 / 255)
    codec = None if compression == "none" else Codec(compression, larger)
    table = make_table(1000, 5000, spec=larger, compression=compression, max_frame_bytes=4_000)

    def insert(chunk):
        frames = chunk.frames if codec is None else codec.pack(chunk.frames)
        return table.insert(replace(chunk, frames=frames))

    first, second = stream_of(2, spec=larger)
    insert(first)
    for chunk in stream_of(20, spec=larger):
        insert(replace(chunk, stream=6))
    with pytest.raises(UnknownFramesError):
        insert(second)
    table.check()
    assert len(table.sample(50)) == 50


def test_a_slot_that_is_used_again_begins_with_no_samples():
    table = filled_table(np.ones(4))
    table.sample(100)
    table.insert(random_chunk(np.random.default_rng(0), 4, 4))
    assert take_statistics(table).times_sampled[0] == 4


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_an_actor_that_stood_still_pushes_nobody_out_at_once(compression):
    # Its chunk names frames from long ago: were they kept where they are, everything written since
    # would hang on them, and go with them.
    larger = FrameSpec((1, 12, 12), "uint8", 1 / 255)
    codec = None if compression == "none" else Codec(compression, larger)
    table = make_table(400, 650, spec=larger, compression=compression)

    def insert(chunk):
        frames = chunk.frames if codec is None else codec.pack(chunk.frames)
        return table.insert(replace(chunk, frames=frames))

    slow, busy = stream_of(20, spec=larger), stream_of(2_000, spec=larger)
    evicted = 0
    for number in range(20):
        evicted = max(evicted, insert(replace(next(slow), stream=8)))
        for _ in range(90):
            evicted = max(evicted, insert(next(busy)))
        table.check()
        assert number < 2 or len(table) >= 390
    assert table.orphaned == 0
    assert evicted <= 0.1 * table.capacity

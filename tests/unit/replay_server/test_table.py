"""The table against its naive twin; what a sample holds; work and memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UnknownFramesError
from common.item import transition_item
from common.types import PAD, FrameSpec
from replay_server.codec import GROUP_FRAMES, Codec
from replay_server.table import Table
from support.hypothesis_profiles import examples
from support.replay import (
    INF,
    NAN,
    PICTURE,
    VECTOR,
    NaiveTable,
    assert_same_as_twin,
    columns_of,
    count_calls,
    filled_table,
    make_table,
    random_chunk,
)

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
    chunk["observation"][:] = [[PAD, PAD, 0]]
    chunk["next_observation"][:] = [[PAD, 0, 1]]
    table.insert(chunk)
    sample = table.sample(1)
    assert sample.frames[sample["observation"][0]].max(axis=(1, 2, 3)).tolist() == [
        0,
        0,
        255,
    ]
    assert sample.frames[sample["next_observation"][0]].max(axis=(1, 2, 3)).tolist() == [
        0,
        255,
        255,
    ]


def test_a_sample_carries_each_frame_once():
    larger = FrameSpec((1, 16, 16), "uint8", 1 / 255)  # the very small may come twice
    table = filled_table(np.ones(4), stack=2, spec=larger)
    sample = table.sample(256)
    assert len(sample.frames) <= 4 + 1  # the frames of the table, and the zeros
    assert sample["observation"].dtype == np.int32
    assert sample["observation"].max() < len(sample.frames)


def test_a_samples_arrays_are_its_own():
    # What was sampled must not change while the table is written on: sampling is pipelined.
    table = filled_table(np.ones(4))
    sample = table.sample(64)
    arrays = {"frames": sample.frames, **sample.columns}
    before = {name: array.copy() for name, array in arrays.items()}
    chunk = random_chunk(np.random.default_rng(9), 4, 4)
    chunk["action"][:] = 999
    table.insert(chunk)
    for name, array in before.items():
        assert np.array_equal(arrays[name], array)


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
    received = replace(
        chunk,
        frames=views.pop("frames"),
        priority=views.pop("priority"),
        columns=views,
    )
    table.insert(received)
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
    table = Table(capacity, vector, transition_item(1), 0.6, 8 * capacity, np.random.default_rng(0))
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

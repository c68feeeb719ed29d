"""Inserts: evictions, refused chunks, reused frames, bytes."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UnknownFramesError
from common.types import FrameSpec
from replay_server.codec import GROUP_FRAMES, Codec
from support.replay import (
    NAN,
    PICTURE,
    NaiveTable,
    assert_same_as_twin,
    filled_table,
    make_table,
    random_chunk,
)


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


def changed(chunk, **columns):
    return replace(chunk, columns={**chunk.columns, **columns})


BROKEN_CHUNKS = {
    "too many transitions": (lambda c: random_chunk(np.random.default_rng(0), 9, 2), "9 items"),
    "too many frames": (lambda c: random_chunk(np.random.default_rng(0), 1, 33), "33 frames"),
    "another frame shape": (lambda c: replace(c, frames=c.frames[..., :1]), "frames of shape"),
    "another frame type": (lambda c: replace(c, frames=c.frames.astype("f4")), "frames of float32"),
    "another stack": (
        lambda c: changed(c, observation=c["observation"][:, :1]),
        r"int32 \(2, 1\): must be",
    ),
    "a next stack short": (
        lambda c: changed(c, next_observation=c["next_observation"][:1]),
        r"int32 \(1, 2\): must be",
    ),
    "a frame beyond": (lambda c: changed(c, observation=c["observation"] * 0 + 3), "outside"),
    "a frame below": (lambda c: changed(c, next_observation=c["observation"] * 0 - 2), "outside"),
    "stacks of floats": (lambda c: changed(c, observation=c["observation"] * 0.0), "of float64"),
    "stacks of booleans": (lambda c: changed(c, observation=c["observation"] > 0), "of bool"),
    "stacks without a sign": (
        lambda c: changed(c, observation=c["observation"].astype("u4")),
        "of uint32",
    ),
    "reused of 64 bits": (lambda c: replace(c, reused=np.zeros(0, np.int64)), "reused frames of"),
    "rewards per what": (lambda c: changed(c, reward=np.zeros((2, 3), np.float32)), "reward"),
    "actions per what": (lambda c: changed(c, action=np.zeros((2, 2), np.int32)), "action"),
    "discounts missing": (lambda c: changed(c, discount=c["discount"][:1]), "discount"),
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
    # The stream continues with a chunk that brings all its frames.
    whole = replace(next(stream_of(1)), number=9)
    assert table.insert(whole) == 0
    assert table.insert(replace(chunks[1], number=10)) == 0
    table.check()


def test_a_chunk_of_an_earlier_incarnation_of_its_actor_is_no_continuation():
    table, chunks = make_table(capacity=50, frame_capacity=100), list(stream_of(2))
    table.insert(chunks[0])
    table.insert(replace(next(stream_of(1)), number=(1 << 32) + 1))  # the actor was replaced
    with pytest.raises(UnknownFramesError):
        table.insert(chunks[1])  # and then a last message of its former incarnation comes in


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
        with pytest.raises(ValueError, match=r"groups?:|bytes of frames"):
            table.insert(replace(chunk, frames=broken))
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


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_an_actor_that_stood_still_evicts_no_other_at_once(compression):
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

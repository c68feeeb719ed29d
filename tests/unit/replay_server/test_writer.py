"""ReplayWriter: turns, the bound on chunks in flight, shards that die."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.handles import InlineHandle
from replay_server.codec import Codec
from replay_server.messages import decode_chunk
from replay_server.writer import CHUNKS_PER_TURN, ReplayWriter
from support.hypothesis_profiles import examples
from support.replay import (
    PICTURE,
    HeldHandle,
    columns_of,
    make_table,
    random_chunk,
)
from support.replay_handles import MortalHandle


class Ledger:
    """A shard that only notes what it was given."""

    def __init__(self):
        self.chunks = []

    def insert(self, buffer):
        self.chunks.append(decode_chunk(buffer))
        return len(self.chunks[-1])


class BrokenShard:
    def insert(self, buffer):
        raise ValueError("this chunk does not fit")


def chunk_of(number, count=2):
    chunk = random_chunk(np.random.default_rng(number), count, count)
    chunk["action"][:] = number
    return chunk


# The writer.


def test_chunks_go_to_the_shards_in_turn_from_the_one_given():
    ledgers = [Ledger() for _ in range(3)]
    writer = ReplayWriter([InlineHandle(ledger) for ledger in ledgers], 2, stream=4)
    assert not writer.continues
    for number in range(4 * CHUNKS_PER_TURN):
        writer.write(chunk_of(number))
        assert writer.continues is ((number + 1) % CHUNKS_PER_TURN > 0)
    writer.flush()
    turns = [[int(c["action"][0]) // CHUNKS_PER_TURN for c in ledger.chunks] for ledger in ledgers]
    n = CHUNKS_PER_TURN
    assert turns == [[2] * n, [0] * n + [3] * n, [1] * n]


def test_with_one_shard_the_turn_never_ends():
    writer = ReplayWriter([InlineHandle(Ledger())], 2)
    for number in range(3 * CHUNKS_PER_TURN):
        writer.write(chunk_of(number))
        assert writer.continues


def test_chunks_are_numbered_within_the_writers_stream_and_incarnation():
    ledger = Ledger()
    for incarnation in (0, 1):
        writer = ReplayWriter([InlineHandle(ledger)], 2, stream=7, incarnation=incarnation)
        for number in range(3):
            writer.write(chunk_of(number))
    assert {chunk.stream for chunk in ledger.chunks} == {7}
    numbers = [chunk.number for chunk in ledger.chunks]
    assert np.diff(numbers).tolist() == [1, 1, (1 << 32) - 2, 1, 1]


def test_after_a_refused_chunk_the_next_reuses_no_frames():
    # A shard that was restarted does not have the frames that later chunks would reuse.
    answers = [2, 2, 0, 2]

    class Restarted:
        def insert(self, buffer):
            return answers.pop(0)

    writer = ReplayWriter([InlineHandle(Restarted())], 1)
    continued = []
    for number in range(4):
        continued.append(writer.continues)
        writer.write(chunk_of(number))
    writer.flush()
    assert continued == [False, True, True, True]  # with one under way the answer comes later
    assert (writer.accepted, writer.orphaned) == (6, 2)
    answers = [0, 2]
    writer.write(chunk_of(4))
    writer.flush()
    assert not writer.continues


@pytest.mark.parametrize("compression", ["lz4", "zstd", "png"])
def test_a_codec_compresses_what_is_sent(compression):
    ledger = Ledger()
    codec = Codec(compression, PICTURE)
    writer = ReplayWriter([InlineHandle(ledger)], 1, codec=codec)
    sent = random_chunk(np.random.default_rng(0), 3, 7)
    writer.write(sent)
    packed = ledger.chunks[0].frames
    assert isinstance(sent.frames, np.ndarray), "the caller's chunk stays as it was"
    assert (packed.count, len(packed.sizes)) == (7, 2)
    table = make_table(compression=compression, capacity=3, frame_capacity=10)
    table.insert(ledger.chunks[0])
    sample = table.sample(50)
    whole = np.concatenate((sent.frames, np.zeros_like(sent.frames[:1])))
    expected = whole[sent["observation"]][sample.key]
    assert np.array_equal(sample.frames[sample["observation"]], expected)


def test_a_chunk_arrives_bit_for_bit_with_and_without_priorities():
    ledger = Ledger()
    writer = ReplayWriter([InlineHandle(ledger)], 1)
    chunks = [chunk_of(1), replace(chunk_of(2), priority=None)]
    for sent in chunks:
        writer.write(sent)
    for sent, received in zip(chunks, ledger.chunks, strict=True):
        assert (sent.priority is None) == (received.priority is None)
        for name, column in columns_of(sent).items():
            assert np.array_equal(columns_of(received)[name], column)


def test_the_writers_buffer_may_be_used_again_while_a_chunk_is_under_way():
    ledger = Ledger()
    writer = ReplayWriter([HeldHandle(ledger, ("insert",))], 4)
    chunk = chunk_of(5)
    writer.write(chunk)
    chunk["action"][:] = 6
    assert ledger.chunks[0]["action"].tolist() == [5, 5]


@pytest.mark.parametrize("bound", [1, 2, 5])
@pytest.mark.parametrize("shards", [1, 3])
def test_never_more_chunks_are_under_way_than_the_bound(bound, shards):
    # TRAPS 22: over all shards together, or memory grows with their number.
    handle = HeldHandle(Ledger(), ("insert",))
    writer = ReplayWriter([handle] * shards, bound)
    for number in range(20):
        writer.write(chunk_of(number))
        assert writer.in_flight == len(handle.outstanding) == min(number + 1, bound)
    assert handle.peak == bound


def test_at_the_bound_it_waits_for_the_oldest_and_for_no_other():
    handle = HeldHandle(Ledger(), ("insert",))
    writer = ReplayWriter([handle], 3)
    for number in range(3):
        writer.write(chunk_of(number))
    assert handle.waited_for == []  # below the bound it never waits
    handle.futures[1].complete()  # a younger one being done does not let it pass the oldest
    writer.write(chunk_of(3))
    assert handle.waited_for == [0]
    writer.write(chunk_of(4))
    assert handle.waited_for == [0]  # the oldest was done: no wait
    writer.write(chunk_of(5))
    assert handle.waited_for == [0, 2]
    assert writer.wait_s > 0


def test_accepted_are_those_known_to_be_stored_and_each_is_told_once():
    handle = HeldHandle(Ledger(), ("insert",))
    writer = ReplayWriter([handle], 4)
    for number, count in enumerate((1, 2, 4)):
        writer.write(chunk_of(number, count))
    assert writer.take_accepted() == 0
    handle.futures[0].complete()
    handle.futures[2].complete()
    assert writer.take_accepted() == 1  # the third waits its turn behind the second
    assert writer.take_accepted() == 0
    handle.futures[1].complete()
    assert writer.take_accepted() == 6
    assert handle.waited_for == []


def test_flushing_waits_for_everything():
    handle = HeldHandle(Ledger(), ("insert",))
    writer = ReplayWriter([handle], 4)
    for number in range(4):
        writer.write(chunk_of(number))
    writer.flush()
    assert handle.waited_for == [0, 1, 2, 3]
    assert (writer.in_flight, writer.take_accepted()) == (0, 8)
    writer.flush()


def test_an_insert_that_failed_is_raised_at_the_latest_by_flush_and_only_once():
    handle = HeldHandle(BrokenShard(), ("insert",))
    writer = ReplayWriter([handle], 2)
    writer.write(chunk_of(0))
    with pytest.raises(ValueError, match="does not fit"):
        writer.flush()
    writer.flush()
    assert (writer.in_flight, writer.take_accepted()) == (0, 0)


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_below_one_is_refused(bound):
    with pytest.raises(ValueError, match=f"max_in_flight={bound}: must be at least 1"):
        ReplayWriter([InlineHandle(Ledger())], bound)


@given(st.integers(1, 5), st.lists(st.sampled_from(["write", "take", 0, 1, 2, 3]), max_size=60))
@examples(80)
def test_whatever_completes_when_nothing_is_lost_and_the_bound_holds(bound, events):
    ledger = Ledger()
    handle = HeldHandle(ledger, ("insert",))
    writer, taken, written = ReplayWriter([handle], bound), 0, 0
    for event in events:
        if event == "write":
            writer.write(chunk_of(written, 1))
            written += 1
        elif event == "take":
            taken += writer.take_accepted()
        elif event < len(handle.outstanding):
            handle.outstanding[event].complete()
        assert writer.in_flight <= bound
        assert handle.peak <= bound
    writer.flush()
    assert taken + writer.take_accepted() == written
    assert [int(chunk["action"][0]) for chunk in ledger.chunks] == list(range(written))


# Shards that die.


def write_all(writer, numbers):
    """Chunks of one transition each; those that may reuse a frame do."""
    for number in numbers:
        chunk = chunk_of(number, 1)
        if writer.continues:
            chunk.reused = np.zeros(1, np.int32)
        writer.write(chunk)


def numbers_in(ledger):
    return [int(chunk["action"][0]) for chunk in ledger.chunks]


def test_a_shard_that_dies_is_left_out_and_what_it_had_is_counted_as_dropped():
    ledgers = [Ledger() for _ in range(3)]
    handles = [MortalHandle(ledger) for ledger in ledgers]
    writer = ReplayWriter(handles, 2)
    write_all(writer, range(4))
    handles[0].die()
    write_all(writer, range(4, 100))
    writer.flush()
    assert writer.unreachable == {0}
    # Known to be stored were 2 of the first 4; until the death was noticed, more went that way.
    dropped = writer.take_dropped()
    assert 2 <= dropped <= 2 + 2
    assert writer.take_accepted() == 100 - dropped
    there = numbers_in(ledgers[1]) + numbers_in(ledgers[2])
    assert len(there) == 100 - dropped - 2
    assert min(len(ledger.chunks) for ledger in ledgers[1:]) > 2 * CHUNKS_PER_TURN
    assert (writer.take_dropped(), writer.orphaned) == (0, 0)


def test_after_a_death_the_next_chunk_begins_a_turn_elsewhere():
    ledgers = [Ledger(), Ledger()]
    handles = [MortalHandle(ledger) for ledger in ledgers]
    writer = ReplayWriter(handles, 1)
    write_all(writer, range(3))
    handles[0].die()
    assert writer.continues, "no answer yet"
    write_all(writer, [3])
    assert not writer.continues
    write_all(writer, [4, 5])
    assert [len(chunk.reused) for chunk in ledgers[1].chunks] == [0, 1]


def test_if_all_shards_are_dead_nothing_hangs_and_everything_is_dropped():
    handles = [MortalHandle(Ledger()) for _ in range(2)]
    writer = ReplayWriter(handles, 3)
    for handle in handles:
        handle.die()
    write_all(writer, range(50))
    writer.flush()
    assert writer.unreachable == {0, 1}
    assert (writer.take_accepted(), writer.take_dropped(), writer.in_flight) == (0, 50, 0)
    assert not writer.continues


@pytest.mark.parametrize("which", [0, 1])
def test_a_shard_that_takes_the_place_of_a_dead_one_is_written_to(which):
    handles = [MortalHandle(Ledger()) for _ in range(2)]
    writer = ReplayWriter(handles, 1)
    for handle in handles:
        handle.die()
    write_all(writer, range(5))
    writer.flush()
    back = Ledger()
    writer.reconnect(which, MortalHandle(back))
    assert writer.unreachable == {1 - which}
    assert not writer.continues
    write_all(writer, range(5, 5 + 2 * CHUNKS_PER_TURN))
    writer.flush()
    assert numbers_in(back) == list(range(5, 5 + 2 * CHUNKS_PER_TURN))
    assert writer.take_accepted() == 2 * CHUNKS_PER_TURN
    other = Ledger()
    writer.reconnect(1 - which, MortalHandle(other))
    assert writer.unreachable == set()
    write_all(writer, range(100, 100 + 2 * CHUNKS_PER_TURN))
    writer.flush()
    assert len(other.chunks) == CHUNKS_PER_TURN


def test_the_late_news_of_a_death_does_not_count_against_the_one_that_came_after():
    old, new = MortalHandle(Ledger()), Ledger()
    writer = ReplayWriter([old], 4)
    write_all(writer, range(3))
    old.die()
    writer.reconnect(0, MortalHandle(new))
    write_all(writer, range(3, 6))
    writer.flush()
    assert writer.unreachable == set()
    assert (writer.take_accepted(), writer.take_dropped()) == (3, 3)
    assert [len(chunk.reused) for chunk in new.chunks] == [0, 1, 1]


EVENTS = st.one_of(
    st.integers(1, CHUNKS_PER_TURN + 2).map(lambda count: ("write", count)),
    st.tuples(st.sampled_from(["die", "connect"]), st.integers(0, 2)),
    st.just(("take", 0)),
)


@given(st.integers(1, 4), st.lists(EVENTS, max_size=40))
@examples(200)
def test_whichever_shard_dies_when_all_is_counted_and_no_shard_is_sent_what_it_cannot_read(
    bound, events
):
    ledgers = [Ledger() for _ in range(3)]
    handles = [MortalHandle(ledger) for ledger in ledgers]
    everyone = list(ledgers)
    writer, written, accepted, dropped = ReplayWriter(handles, bound), 0, 0, 0
    for event, value in events:
        if event == "write":
            write_all(writer, range(written, written + value))
            written += value
        elif event == "die":
            handles[value].die()
        elif event == "connect" and handles[value].target is None:
            everyone.append(Ledger())
            handles[value] = MortalHandle(everyone[-1])
            writer.reconnect(value, handles[value])
        elif event == "take":
            accepted += writer.take_accepted()
            dropped += writer.take_dropped()
        assert writer.in_flight <= bound
        assert all(handles[index].target is None for index in writer.unreachable)
    writer.flush()
    accepted += writer.take_accepted()
    dropped += writer.take_dropped()
    assert accepted + dropped == written
    assert writer.orphaned == 0
    for ledger in everyone:  # frames are reused only of the chunk that the shard got just before
        for before, chunk in itertools.pairwise([None, *ledger.chunks]):
            assert not len(chunk.reused) or before.number == chunk.number - 1

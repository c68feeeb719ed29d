import sys
from dataclasses import replace

import numpy as np
import pytest

from common import wire
from common.errors import WireError
from common.item import transition_item
from replay_server.messages import decode_chunk, decode_sample, encode_chunk
from replay_server.server import ReplayServer
from support.replay import PICTURE, columns_of, random_chunk


def make(shard=0, incarnation=0, seed=1, alpha=1.0, capacity=16):
    return ReplayServer(
        capacity=capacity,
        frame=PICTURE,
        item=transition_item(2),
        alpha=alpha,
        frame_capacity=64,
        seed=seed,
        shard=shard,
        incarnation=incarnation,
    )


def filled(**named):
    server = make(**named)
    chunk = random_chunk(np.random.default_rng(0), 8, 12, priority=np.arange(1, 9))
    server.insert(encode_chunk(chunk))
    return server, chunk


def stacks(frames, numbers):
    whole = np.where((numbers >= 0)[..., None, None, None], frames[numbers], 0)
    return whole.astype(frames.dtype)


def test_what_goes_in_as_bytes_comes_out_as_bytes_bit_for_bit():
    server, chunk = filled(shard=3, incarnation=2)
    sample = decode_sample(server.sample(50))
    assert len(sample) == 50
    key = sample.key
    whole, next_whole = (
        stacks(chunk.frames, numbers)
        for numbers in (chunk["observation"], chunk["next_observation"])
    )
    assert np.array_equal(sample.frames[sample["observation"]], whole[key])
    assert np.array_equal(sample.frames[sample["next_observation"]], next_whole[key])
    for name in ("action", "reward", "discount", "version"):
        received, sent = sample.columns[name], chunk.columns[name]
        assert received.dtype == sent.dtype
        assert np.array_equal(received, sent[key])
    assert np.array_equal(sample.age, 8 - key)
    np.testing.assert_allclose(sample.probability, (key + 1) / 36, rtol=1e-5)
    types = (sample["observation"].dtype, sample.key.dtype, sample.probability.dtype)
    assert types == (np.int32, np.int64, np.float64)
    assert sample.summary == server.summary()
    assert (sample.summary.shard, sample.summary.incarnation) == (3, 2)
    assert sample.summary.sampled == 50


def test_an_insert_answers_how_many_were_accepted():
    server = make()
    chunk = random_chunk(np.random.default_rng(0), 5, 5)
    assert server.insert(encode_chunk(chunk)) == 5
    assert server.insert(encode_chunk(chunk)) == 5
    assert server.summary().inserted == 10
    server.check()


def test_a_chunk_without_priorities_or_transitions_is_a_chunk():
    server = make()
    chunk = random_chunk(np.random.default_rng(0), 2, 3, priority=None)
    assert server.insert(encode_chunk(chunk)) == 2
    assert server.summary().total == pytest.approx(2.0, rel=1e-5)
    nothing = random_chunk(np.random.default_rng(0), 0, 0)
    assert server.insert(encode_chunk(nothing)) == 0
    server.check()


@pytest.mark.parametrize("server", [make(), filled()[0]], ids=["empty", "filled"])
def test_a_sample_of_none_asks_for_the_summary_alone(server):
    sample = decode_sample(server.sample(0))
    assert len(sample) == 0
    assert sample.frames.shape == (0, *PICTURE.shape)
    assert sample.summary == server.summary()


def test_an_insert_keeps_nothing_of_its_read_only_buffer():
    # TRAPS 15: it lies in Ray's shared memory, which a kept view would pin for ever.
    server, chunk = make(), random_chunk(np.random.default_rng(0), 8, 12)
    memory = encode_chunk(chunk)
    buffer = memory.view()
    buffer.flags.writeable = False
    references = sys.getrefcount(buffer)
    server.insert(buffer)
    assert sys.getrefcount(buffer) == references
    memory[:] = 0
    sample = decode_sample(server.sample(50))
    assert np.array_equal(sample["reward"], chunk["reward"][sample.key])
    whole = stacks(chunk.frames, chunk["observation"])
    assert np.array_equal(sample.frames[sample["observation"]], whole[sample.key])
    server.check()


def test_a_sample_is_read_from_a_read_only_buffer_without_copies():
    server, _ = filled()
    buffer = server.sample(4)
    buffer.flags.writeable = False
    sample = decode_sample(buffer)
    assert np.shares_memory(sample.frames, buffer)
    assert not sample.frames.flags.writeable


def test_a_sample_does_not_change_with_the_table():
    server, chunk = filled()
    sample = decode_sample(server.sample(20))
    for _ in range(10):
        other = random_chunk(np.random.default_rng(5), 8, 12)
        server.insert(encode_chunk(other))
    assert np.array_equal(sample["reward"], chunk["reward"][sample.key])


def test_late_and_bad_priorities_show_in_the_summary():
    server, _ = filled(incarnation=1)
    server.update_priorities(np.array([0, 1, 99]), np.array([1.0, np.nan, 1.0]), 1)
    server.update_priorities(np.array([0, 1]), np.array([5.0, 5.0]), 0)  # of its past incarnation
    summary = server.summary()
    assert (summary.stale, summary.refused) == (3, 1)
    assert summary.total == pytest.approx(36, rel=1e-5)
    server.check()


@pytest.mark.parametrize("length", [0, 7, 12, 100, -1])
def test_bytes_that_are_no_chunk_are_refused_and_change_nothing(length):
    server, chunk = filled()
    before = server.summary()
    with pytest.raises(WireError):
        server.insert(encode_chunk(chunk)[:length])
    assert server.summary() == before
    server.check()


def test_a_buffer_without_a_column_is_refused_by_name():
    server, chunk = filled()
    columns = columns_of(chunk)
    del columns["reward"]
    with pytest.raises(ValueError, match="without column 'reward'"):
        server.insert(wire.encode(columns, {"stream": 0, "number": 1}))


def test_a_chunk_of_another_environment_is_refused_and_changes_nothing():
    server, chunk = filled()
    before = server.summary()
    other = replace(chunk, frames=chunk.frames[:, :, :1])
    with pytest.raises(ValueError, match="frames of shape"):
        server.insert(encode_chunk(other))
    assert server.summary() == before
    server.check()


def test_each_seed_shard_and_incarnation_draws_its_own_stream():
    def keys(**named):
        return tuple(decode_sample(filled(**named)[0].sample(30)).key.tolist())

    assert keys() == keys()
    streams = {keys(seed=s, shard=k, incarnation=i) for s in (1, 2) for k in (0, 1) for i in (0, 1)}
    assert len(streams) == 8


def test_a_chunk_survives_two_hops_of_encoding():
    chunk = random_chunk(np.random.default_rng(0), 3, 4)
    once = decode_chunk(encode_chunk(chunk))
    twice = encode_chunk(once)
    assert twice.tobytes() == encode_chunk(chunk).tobytes()

"""Chunks and samples as flat buffers: bit for bit, and nothing but chunks and samples."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.errors import WireError
from replay_server.codec import Codec
from replay_server.messages import decode_chunk, decode_sample, encode_chunk
from support.hypothesis_profiles import examples
from support.replay import PICTURE, columns_of, filled_table, random_chunk

META = {"stream": 3, "number": 1 << 40}


def decoded(columns, meta=META):
    return decode_chunk(wire.encode(columns, meta))


@pytest.mark.parametrize("priority", ["random", None])
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_chunk_survives_the_wire_bit_for_bit(priority, compression):
    chunk = random_chunk(np.random.default_rng(0), 5, 7, stack=3, priority=priority)
    chunk = replace(chunk, reused=np.array([4, 2], np.int32), **META)
    if compression != "none":
        chunk.frames = Codec(compression, PICTURE).pack(chunk.frames)
    again = decode_chunk(encode_chunk(chunk))
    assert len(again) == 5
    assert (again.num_frames, again.stream, again.number) == (7, 3, 1 << 40)
    assert (again.priority is None) == (chunk.priority is None)
    assert encode_chunk(again).tobytes() == encode_chunk(chunk).tobytes()
    for name, column in columns_of(chunk).items():
        if name in ("packed", "sizes"):
            received = again.frames.data if name == "packed" else again.frames.sizes
        else:
            received = again.columns[name] if name in again.columns else getattr(again, name)
        assert received.dtype == column.dtype
        assert np.array_equal(received, column)


@pytest.mark.parametrize("name", ["frames", "reused"])
def test_a_chunk_without_a_column_is_refused_by_name(name):
    columns = columns_of(random_chunk(np.random.default_rng(0), 2, 3))
    del columns[name]
    with pytest.raises(WireError, match=f"without column '{name}'"):
        decoded(columns)


@pytest.mark.parametrize(
    "name", ["observation", "next_observation", "reward", "discount", "version", "priority"]
)
def test_a_chunk_with_a_short_column_is_refused_by_name(name):
    columns = columns_of(random_chunk(np.random.default_rng(0), 4, 3))
    columns[name] = columns[name][:3]
    with pytest.raises(WireError, match=r"has \d rows, not \d as column") as caught:
        decoded(columns)
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize("name", ["action", "reward", "frames", "reused"])
def test_a_column_without_rows_is_refused_as_a_value(name):
    columns = columns_of(random_chunk(np.random.default_rng(0), 1, 1))
    columns[name] = np.zeros((), columns[name].dtype)
    with pytest.raises(WireError, match=name):
        decoded(columns)


@pytest.mark.parametrize("meta", [{}, {"stream": 0}, {"stream": -1, "number": 0}])
@pytest.mark.parametrize("bad", [None, 1.5, True, "1", 1 << 63])
def test_a_stream_or_number_that_is_none_is_refused(meta, bad):
    columns = columns_of(random_chunk(np.random.default_rng(0), 1, 1))
    with pytest.raises(WireError, match="must be a whole number from 0"):
        decoded(columns, meta if bad is None else {"stream": bad, "number": 1})


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("reused", np.zeros(2, np.float32)),
        ("reused", np.zeros((2, 2), np.int32)),
        ("sizes", np.zeros(2, np.float32)),
        ("packed", np.zeros(2, np.int64)),
        ("packed", np.zeros((2, 2), np.uint8)),
    ],
)
def test_columns_of_another_kind_are_refused_by_name(name, column):
    chunk = random_chunk(np.random.default_rng(0), 2, 3)
    chunk.frames = Codec("lz4", PICTURE).pack(chunk.frames)
    columns = columns_of(chunk)
    columns[name] = column
    with pytest.raises(WireError, match=name):
        decoded(columns, {**META, "frames": 3})


@given(st.data())
@examples(150)
def test_hostile_bytes_are_one_kind_of_error(data):
    # Any byte of a message changed, cut or added: a chunk, or WireError, and nothing else.
    chunk = random_chunk(np.random.default_rng(0), 3, 4)
    if data.draw(st.booleans(), "compressed"):
        chunk.frames = Codec("lz4", PICTURE).pack(chunk.frames)
    message = bytearray(encode_chunk(chunk).tobytes())
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        message[data.draw(st.integers(0, len(message) - 1), "at")] = data.draw(st.integers(0, 255))
    message = message[: data.draw(st.integers(0, len(message)), "length")]
    for decode in (decode_chunk, decode_sample):
        with contextlib.suppress(WireError):
            decode(np.frombuffer(bytes(message), np.uint8))


def test_a_chunk_without_items_columns_is_refused():
    columns = columns_of(random_chunk(np.random.default_rng(0), 1, 1))
    with pytest.raises(WireError, match="without columns of items"):
        decoded({name: columns[name] for name in ("frames", "reused", "priority")})


def test_what_is_no_sample_is_refused():
    with pytest.raises(WireError, match="not a sample"):
        decode_sample(wire.encode({"frames": np.zeros(1)}, {}))
    sample = filled_table(np.ones(4)).sample(4)
    columns = {"frames": sample.frames, **sample.columns}
    with pytest.raises(WireError, match="not a sample"):
        decode_sample(wire.encode(columns, {"shard": 0}))

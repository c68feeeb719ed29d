import json
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import wire
from common.errors import WireError
from support.hypothesis_profiles import examples

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", ">i4", ">f8"),
]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3)
    )
)
META = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=8)),
    max_size=4,
)


def message(columns, meta=None, length=None, payload=0):
    """Bytes with a header of the attacker's choice."""
    header = msgpack.packb({"meta": {} if meta is None else meta, "columns": columns})
    size = len(header) if length is None else length
    head = wire.MAGIC + size.to_bytes(4, "little") + header
    return head + bytes(-len(head) % wire.ALIGNMENT_BYTES) + bytes(payload)


@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=4), META)
@examples(150)
def test_any_arrays_come_back_as_they_were(arrays, meta):
    received, received_meta = wire.decode(wire.encode(arrays, meta))
    assert received_meta == meta
    assert list(received) == list(arrays)
    for name, array in arrays.items():
        assert received[name].shape == array.shape
        assert received[name].dtype == array.dtype.newbyteorder("<")
        little = array.astype(array.dtype.newbyteorder("<"))
        assert received[name].tobytes() == little.tobytes()  # NaNs and −0.0 too


@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 84, 84), (3, 0, 1000)])
def test_arrays_without_elements_come_back_with_their_shape(shape):
    received, _ = wire.decode(wire.encode({"a": np.zeros(shape, np.uint8)}))
    assert received["a"].shape == shape


def test_strided_arrays_travel_as_they_look():
    array = np.arange(24).reshape(4, 6).T[::2]
    received, _ = wire.decode(wire.encode({"a": array}))
    assert np.array_equal(received["a"], array)


def test_equal_content_gives_equal_bytes():
    # The buffer is not zeroed when it is made; padding must not carry what lay there before.
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.arange(5.0), "c": np.zeros(0)}
    first = wire.encode(arrays, {"x": 1}).tobytes()
    for _ in range(20):
        junk = np.full(len(first), 0xAB, np.uint8)
        del junk
        assert wire.encode(arrays, {"x": 1}).tobytes() == first


def test_decoding_makes_views_that_are_aligned_and_share_memory():
    buffer = wire.encode({"a": np.arange(3, dtype=np.uint8), "b": np.arange(5.0)})
    received, _ = wire.decode(buffer)
    starts = [
        view.__array_interface__["data"][0] - buffer.ctypes.data for view in received.values()
    ]
    assert [start % wire.ALIGNMENT_BYTES for start in starts] == [0, 0]
    assert all(np.shares_memory(view, buffer) for view in received.values())


def test_views_of_a_read_only_buffer_are_read_only():
    buffer = wire.encode({"a": np.arange(3)})
    buffer.flags.writeable = False
    received, _ = wire.decode(buffer)
    with pytest.raises(ValueError, match="read-only"):
        received["a"][0] = 1


def test_allocated_views_are_what_the_reader_sees():
    buffer, views = wire.allocate({"a": ((2, 3), np.float32), "b": ((4,), np.int64)}, {"k": "v"})
    views["a"][...] = 7
    views["b"][...] = range(4)
    received, meta = wire.decode(buffer)
    assert (received["a"] == 7).all()
    assert received["a"].shape == (2, 3)
    assert received["b"].tolist() == [0, 1, 2, 3]
    assert meta == {"k": "v"}


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}], object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(1, np.complex64),
        np.zeros(1, [("x", "f4")]),
    ],
)
def test_types_that_cannot_travel_are_refused_by_name(array):
    with pytest.raises(TypeError, match="'culprit'"):
        wire.encode({"culprit": array})


def test_a_header_that_could_not_be_read_again_is_not_written():
    with pytest.raises(ValueError, match="header of"):
        wire.encode({}, {"x": "y" * wire.MAX_HEADER_BYTES})


@given(st.binary(max_size=200))
@examples(200)
def test_random_bytes_raise_wire_error_only(data):
    for attempt in (data, wire.MAGIC + data, wire.MAGIC + (60).to_bytes(4, "little") + data):
        with pytest.raises(WireError):
            wire.decode(attempt)


SPECIMEN = wire.encode(
    {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.arange(70, dtype=np.uint8)},
    {"n": 3},
).tobytes()


def test_a_buffer_cut_off_anywhere_raises_wire_error():
    for length in range(len(SPECIMEN)):
        with pytest.raises(WireError):
            wire.decode(SPECIMEN[:length])


@given(st.integers(0, len(SPECIMEN) - 1), st.integers(1, 255))
@examples(400)
def test_a_changed_byte_raises_wire_error_or_gives_arrays_within_the_buffer(position, mask):
    data = bytearray(SPECIMEN)
    data[position] ^= mask
    try:
        arrays, meta = wire.decode(data)
    except WireError:
        return
    assert isinstance(meta, dict)
    assert all(isinstance(name, str) for name in arrays)
    assert sum(array.nbytes for array in arrays.values()) <= len(data)
    for array in arrays.values():
        array.tobytes()  # reads every byte: a view beyond the buffer would show


PLAUSIBLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 128),
    st.floats(),
    st.sampled_from(["<f4", "|u1", "|O", "<U4", "<M8[s]", ">f4", "a"]),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.lists(st.integers(-2, 2**33), max_size=10),
)
ENTRIES = st.one_of(
    PLAUSIBLE,
    st.lists(PLAUSIBLE, max_size=5),
    st.tuples(
        st.text(max_size=2),
        st.sampled_from(["<f4", "|u1", "|b1", "|O"]),
        st.lists(st.integers(-1, 70), max_size=9),
        st.sampled_from([0, 64, 128, -64, 1, 2**62]),
    ).map(list),
)


@given(st.one_of(PLAUSIBLE, st.lists(ENTRIES, max_size=4)), st.one_of(st.just({}), PLAUSIBLE))
@examples(300)
def test_a_hostile_header_raises_wire_error_or_gives_arrays_within_the_buffer(columns, meta):
    data = message(columns, meta, payload=128)
    try:
        arrays, _ = wire.decode(data)
    except WireError:
        return
    assert all(array.nbytes <= 128 for array in arrays.values())
    assert all(array.dtype.kind in "biuf" for array in arrays.values())


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (["a", "<f8", [2**62], 0], "shape"),
        (["a", "<f8", [2**32, 2**32], 0], "shape"),  # 2**64: would overflow to nothing
        (["a", "|u1", [0, 2**62, 4], 0], "shape"),  # empty, and yet too big for numpy
        (["a", "|u1", [64, 64, 64, 64, 64], 0], "too late"),
        (["a", "<f8", [9], 0], "too late"),
        (["a", "|u1", [64], 64], "too late"),
        (["a", "|u1", [1], 2**62], "too late"),
        (["a", "|u1", [-1], 0], "shape"),
        (["a", "|u1", [True], 0], "shape"),
        (["a", "|u1", [1.0], 0], "shape"),
        (["a", "|u1", [1] * 9, 0], "shape"),
        (["a", "|u1", 1, 0], "shape"),
        (["a", "|u1", [1], -64], "offset"),
        (["a", "|u1", [1], 1], "offset"),
        (["a", "|u1", [1], False], "offset"),
        (["a", "|O", [1], 0], "dtype"),
        (["a", "|S8", [1], 0], "dtype"),
        (["a", "<M8[s]", [1], 0], "dtype"),
        (["a", ["<f8"], [1], 0], "dtype"),
        ([1, "|u1", [1], 0], "name"),
        (["a", "|u1", [1]], "entry"),
        ({"a": 1}, "entry"),
    ],
)
def test_impossible_claims_are_refused_before_anything_is_made_of_them(entry, reason):
    data = message([entry], payload=64)
    with pytest.raises(WireError, match=reason):
        wire.decode(data)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            wire.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 17
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [2**32 - 1, wire.MAX_HEADER_BYTES + 1, 10_000])
def test_a_header_longer_than_the_buffer_is_refused(length):
    with pytest.raises(WireError, match=f"header of {length:,}"):
        wire.decode(message([], length=length, payload=64))


def test_a_header_over_the_limit_is_refused_even_when_it_is_there():
    data = message([], meta={"x": "y" * wire.MAX_HEADER_BYTES})
    with pytest.raises(WireError, match="header of"):
        wire.decode(data)


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(WireError, match="one name"):
        wire.decode(message([["a", "|u1", [1], 0], ["a", "|u1", [1], 0]], payload=64))


@pytest.mark.parametrize("header", [[], {}, {"meta": {}}, {"columns": []}, 3, None, "text"])
def test_a_header_of_another_shape_is_refused(header):
    packed = msgpack.packb(header)
    with pytest.raises(WireError):
        wire.decode(wire.MAGIC + len(packed).to_bytes(4, "little") + packed + bytes(128))


def test_other_formats_are_refused():
    for data in (b"", b"RDQNWIR", b"\x80\x04K\x01.", json.dumps({}).encode()):
        with pytest.raises(WireError, match="not a raydqn buffer"):
            wire.decode(data)

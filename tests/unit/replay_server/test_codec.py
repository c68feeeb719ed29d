"""Codecs: lossless, and no more memory than asked for, whatever the bytes say."""

import io
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError, WireError
from common.types import FrameSpec
from replay_server.codec import COMPRESSIONS, GROUP_FRAMES, Codec, make_codec
from support.hypothesis_profiles import examples
from support.replay import PICTURE, VECTOR

COLOUR = FrameSpec((3, 6, 4), "uint8", 1 / 255)
KINDS = [kind for kind in COMPRESSIONS if kind != "none"]


def groups_of(packed):
    ends = np.cumsum(packed.sizes)
    data = packed.data.tobytes()
    return [data[end - size : end] for size, end in zip(packed.sizes, ends, strict=True)]


def random_frames(spec, count, seed=0):
    rng = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return rng.integers(0, 256, (count, *spec.shape), np.uint8)
    return rng.normal(size=(count, *spec.shape)).astype(spec.dtype)


@given(
    st.sampled_from(KINDS),
    st.sampled_from([PICTURE, COLOUR, VECTOR]),
    st.integers(0, 17),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@examples(150)
def test_frames_come_back_bit_for_bit(kind, spec, count, seed, backwards):
    if kind == "png" and spec is VECTOR:
        return
    frames = random_frames(spec, count, seed)
    if backwards:
        frames = frames[::-1]  # a view that does not lie in memory as it reads
    codec = Codec(kind, spec)
    packed = codec.pack(frames)
    assert packed.count == count
    assert len(packed.sizes) == -(-count // GROUP_FRAMES)
    for number, group in enumerate(groups_of(packed)):
        wanted = frames[number * GROUP_FRAMES : (number + 1) * GROUP_FRAMES]
        assert np.array_equal(codec.unpack(group, len(wanted)), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_are_alike_take_little_more_than_one(kind):
    spec = FrameSpec((1, 84, 84), "uint8", 1 / 255)
    frames = np.repeat(random_frames(spec, 1), GROUP_FRAMES, axis=0)
    packed = Codec(kind, spec).pack(frames)
    limit = 1.1 if kind != "png" else GROUP_FRAMES  # PNG looks back 32 KiB, through other rows
    assert len(packed.data) < limit * 1.01 * spec.nbytes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "more", "fewer"])
def test_damaged_groups_are_one_kind_of_error(kind, damage):
    codec = Codec(kind, PICTURE)
    (group,) = groups_of(codec.pack(random_frames(PICTURE, 4)))
    count = {"more": 5, "fewer": 3}.get(damage, 4)
    broken = {
        "cut": group[: len(group) // 2],
        "flipped": bytes(255 - b for b in group),
        "empty": b"",
        "other": b"not a group at all",
    }.get(damage, group)
    with pytest.raises(WireError, match=kind):
        codec.unpack(broken, count)


def bomb(kind, size):
    """A few bytes that claim, or truly become, very many."""
    if kind == "zstd":
        return zstandard.ZstdCompressor(level=19).compress(bytes(size))
    if kind == "png":
        file = io.BytesIO()
        Image.new("L", (size // 4096, 4096)).save(file, "PNG", compress_level=9)
        return file.getvalue()
    # LZ4: one literal, then a match at distance one whose length is given in bytes of 255.
    return bytes([0x1F, 0, 1, 0]) + b"\xff" * (size // 255) + b"\x00\x10a"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_would_become_very_many_do_not(kind):
    codec, group = Codec(kind, PICTURE), bomb(kind, 1 << 26)
    assert len(group) < 1 << 20
    with pytest.raises(WireError):
        codec.unpack(group, 4)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            codec.unpack(group, 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.sampled_from(KINDS), st.binary(max_size=60))
@examples(150)
def test_any_bytes_are_frames_or_one_kind_of_error(kind, data):
    try:
        frames = Codec(kind, PICTURE).unpack(data, 2)
    except WireError:
        return
    assert frames.shape == (2, *PICTURE.shape)


def test_only_known_kinds_that_fit_the_frames_are_made():
    assert make_codec("none", VECTOR) is None
    with pytest.raises(UserError, match=r"replay.compression=gzip: must be one of none, lz4, zstd"):
        make_codec("gzip", PICTURE)
    for spec in (VECTOR, FrameSpec((4, 8, 8), "uint8", 1.0), FrameSpec((1, 8, 8), "float32", 1.0)):
        with pytest.raises(UserError, match=r"replay.compression=png: needs 8-bit pictures"):
            make_codec("png", spec)

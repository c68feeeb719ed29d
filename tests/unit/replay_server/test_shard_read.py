"""Files of shards that are damaged or hostile."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.checkpoint import entry_of
from common.errors import CheckpointError
from common.storage import open_storage
from replay_server.codec import GROUP_FRAMES
from replay_server.shard_checkpoint import ShardSaver
from replay_server.shard_restore import restore_shard
from replay_server.table import Table
from replay_server.table_image import image_of, restore_image
from support.hypothesis_profiles import examples
from support.replay import (
    make_table,
)
from support.shards import KINDS, TwinnedTable, fresh_url

SPARE_BYTES, FACTOR = 1 << 20, 64


def put(origin, name, data):
    """Put other bytes in place of a file, and let the manifest agree."""
    open_storage(origin.url).write(name, data)
    return replace(origin, files={**origin.files, name: entry_of(data)})


def may_claim_memory(value):
    """Whether so many of anything would be much memory; a negative number may be taken for one."""
    return isinstance(value, (int, float)) and not 0 <= value < 1 << 30


def assert_refused_or_right(twinned, origin, must_refuse=False, traced=True):
    """Whatever the bytes: one line that names a file, or a table without a contradiction.

    `traced`: whether the memory is looked at, which takes four times as long.
    """
    total = sum(entry["bytes"] for entry in origin.files.values())
    for changed in ({}, {"alpha": 0.5, "frame_capacity": 200}):
        table = twinned.make(seed=1, **changed)
        saver = ShardSaver(table, twinned.spec)
        if traced:
            tracemalloc.start()
        try:
            restore_shard(table, saver, twinned.spec, origin)
        except CheckpointError as error:
            said = str(error)
            assert len(said.splitlines()) == 1, said
            assert said.startswith(f"{origin.url}/"), said
            assert len(said) < 500, said
        else:
            assert not must_refuse, changed
            table.check()
        finally:
            claimed = tracemalloc.get_traced_memory()[1]  # 0 where it is not traced
            tracemalloc.stop()
        assert claimed < SPARE_BYTES + FACTOR * total


@pytest.fixture(scope="module", params=[KINDS[0], KINDS[1]], ids=["none", "lz4"])
def victim(request):
    """A saved shard, and the bytes of its file; one of the two has action masks."""
    masks = {} if request.param == KINDS[0] else {"mask_bytes": 2}
    twinned = TwinnedTable(2, request.param, **masks).advance(20)
    origin = twinned.save(fresh_url())
    return twinned, origin, bytes(open_storage(origin.url).read(origin.shards[0]))


HOSTILE = [-1, 0, 1, 3, 1 << 31, 1 << 40, (1 << 62) - 1, 1 << 63, 0.5, float("nan"), float("inf")]


HOSTILE += [None, True, "", "x\ny" * 400, [], [[]], {}, [1, 2, 3], [["../../etc/passwd", 0, 5]]]


def test_every_value_of_the_header_may_be_anything(victim):
    twinned, origin, data = victim
    columns, meta = wire.decode(data)
    segments = [[name, first, count] for name, first, count in meta["segments"]]
    hostile = [*HOSTILE, segments * 2, segments[::-1], segments[1:], segments[:-1]]
    hostile += [[["frames/other.rdqn", *segments[0][1:]], *segments[1:]]]
    hostile += [[[segments[-1][0], *segments[0][1:]], *segments[1:]]]
    for key in meta:
        for value in hostile:
            changed = put(origin, origin.shards[0], wire.encode(columns, {**meta, key: value}))
            assert_refused_or_right(twinned, changed, traced=may_claim_memory(value))
        without = {k: v for k, v in meta.items() if k != key}
        refused = put(origin, origin.shards[0], wire.encode(columns, without))
        assert_refused_or_right(twinned, refused, must_refuse=True, traced=False)
    for part in ("layout", "counters"):
        for key in meta[part]:
            for value in HOSTILE:
                values = {**meta, part: {**meta[part], key: value}}
                changed = put(origin, origin.shards[0], wire.encode(columns, values))
                assert_refused_or_right(twinned, changed, traced=may_claim_memory(value))


def test_every_column_may_be_anything(victim):
    twinned, origin, data = victim
    columns, meta = wire.decode(data)
    for key, column in columns.items():
        others = [column[:-1], column[:0], column.astype(np.float32), column.astype(np.int16)]
        others += [column[None], np.zeros((), column.dtype), np.concatenate((column, column))]
        for other in others:
            if other.dtype == column.dtype and np.array_equal(other, column):
                continue
            changed = put(origin, origin.shards[0], wire.encode({**columns, key: other}, meta))
            assert_refused_or_right(twinned, changed, traced=False)
        for value in (-1, 0, 5, 2**31 - 1, -(2**31), 1e300, np.nan, np.inf):
            other = column.copy()
            with np.errstate(invalid="ignore", over="ignore"):
                other.reshape(-1)[-1:] = np.array([value]).astype(column.dtype)
            changed = put(origin, origin.shards[0], wire.encode({**columns, key: other}, meta))
            assert_refused_or_right(twinned, changed, traced=may_claim_memory(value))
        without = {k: v for k, v in columns.items() if k != key}
        refused = put(origin, origin.shards[0], wire.encode(without, meta))
        assert_refused_or_right(twinned, refused, must_refuse=True, traced=False)


@pytest.mark.parametrize("key", ["capacity", "frame_rows"])
def test_a_layout_claims_no_memory(victim, key):
    twinned, origin, data = victim
    columns, meta = wire.decode(data)
    meta["layout"][key] = 1 << 40
    assert_refused_or_right(twinned, put(origin, origin.shards[0], wire.encode(columns, meta)))


def test_frames_that_no_file_holds_claim_no_memory(victim):
    twinned, origin, data = victim
    columns, meta = wire.decode(data)
    meta["layout"]["frame_rows"] = 1 << 30
    meta["written_frames"] = meta["first_frame"] + (1 << 29) // GROUP_FRAMES * GROUP_FRAMES
    refused = put(origin, origin.shards[0], wire.encode(columns, meta))
    assert_refused_or_right(twinned, refused, must_refuse=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, m: m.update(format=2), "format 2"),
        (lambda c, m: c["mass"].fill(-1.0), "a mass"),
        (lambda c, m: c["mass"].fill(1e9), "a mass"),
        (lambda c, m: c["runs"].__imul__(-1), "runs"),
        (lambda c, m: c.update(runs=c["runs"][:0]), "without a run"),
        (lambda c, m: c["runs"][:, 0].__iadd__(10**6), "a run from item"),
        (lambda c, m: c["runs"].__setitem__((-1, 1), m["written_frames"]), "goes before its item"),
        (lambda c, m: m.update(inserted=1), "impossible"),
        (lambda c, m: m.update(written_frames=m["written_frames"] + 5), "frames up to"),
        (lambda c, m: m.update(first_frame=0, written_frames=0), ""),
        (lambda c, m: c["item.stacks"].fill(41), ""),
        (lambda c, m: c["item.stacks"].fill(-1), ""),
    ],
)
def test_a_shard_that_contradicts_itself_is_refused(victim, change, said):
    twinned, origin, data = victim
    columns, meta = wire.decode(bytearray(data))
    change(columns, meta)
    refused = put(origin, origin.shards[0], wire.encode(columns, meta))
    table = twinned.make()
    with pytest.raises(CheckpointError, match=rf"shard-0\.rdqn: cannot be understood .*{said}"):
        restore_shard(table, ShardSaver(table, twinned.spec), twinned.spec, refused)


def test_a_segment_of_other_frames_is_refused(victim):
    twinned, origin, _ = victim
    names = [name for name in origin.files if name.startswith("frames/")]
    segments = {name: open_storage(origin.url).read(name) for name in names}
    first = names[0]
    columns, _ = wire.decode(segments[first])
    others = [np.zeros(0, np.uint8), segments[first][:-1], np.arange(99, dtype=np.uint8)]
    for key, column in columns.items():
        others.append(wire.encode({k: v for k, v in columns.items() if k != key}, {}))
        for other in (column[:-1], column[:0], column[None], column.astype(np.float64)):
            others.append(wire.encode({**columns, key: other}, {}))
    for other in others:
        assert_refused_or_right(twinned, put(origin, first, other), must_refuse=True)
    put(origin, first, segments[first])
    assert_refused_or_right(twinned, origin)


def test_groups_that_cannot_be_unpacked_are_refused_when_dealt():
    twinned = TwinnedTable(2, KINDS[1]).advance(20)
    origin = twinned.save(fresh_url())
    for name in origin.files:
        columns, meta = wire.decode(bytearray(open_storage(origin.url).read(name)))
        for column in ("packed", "frame.packed"):  # of a segment; of frames background the items
            if column in columns:
                columns[column].fill(0xFF)
        origin = put(origin, name, wire.encode(columns, meta))
    with pytest.raises(CheckpointError, match=r"shard-0\.rdqn: cannot be understood .*unpacked"):
        twinned.restored(origin, capacity=20)


def test_a_file_that_is_cut_off_or_damaged_is_named(victim):
    twinned, origin, data = victim
    name = origin.shards[0]
    storage = open_storage(origin.url)
    storage.write(name, data[:-1])
    with pytest.raises(CheckpointError, match=rf"^{origin.url}/{name}: cut off"):
        twinned.restored(origin)
    storage.write(name, data[:-1] + b"!")
    with pytest.raises(CheckpointError, match=rf"^{origin.url}/{name}: damaged"):
        twinned.restored(origin)
    storage.remove(name)
    with pytest.raises(CheckpointError, match=rf"^{origin.url}/{name}: cannot be read"):
        twinned.restored(origin)
    storage.write(name, data)
    twinned.restored(origin)


@given(st.data())
@examples(150)
def test_no_bytes_end_in_anything_but_a_shard_or_an_error_that_names_it(victim, data):
    twinned, origin, _ = victim
    name = data.draw(st.sampled_from(sorted(origin.files)))
    right = open_storage(origin.url).read(name).tobytes()
    mutated = bytearray(right)
    for _ in range(data.draw(st.integers(1, 4))):
        act = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "copy"]))
        at = data.draw(st.integers(0, max(0, min(len(mutated), 1200) - 1)))
        if act == "cut":
            del mutated[at : at + data.draw(st.integers(1, 400))]
        elif act == "insert":
            mutated[at:at] = data.draw(st.binary(max_size=20))
        elif act == "copy":
            mutated[at:at] = mutated[at // 2 : at // 2 + 64]
        elif at < len(mutated):
            value = data.draw(st.integers(0, 255))
            mutated[at] = mutated[at] ^ 1 << value % 8 if act == "flip" else value
    try:
        assert_refused_or_right(twinned, put(origin, name, bytes(mutated)))
    finally:
        open_storage(origin.url).write(name, right)


def test_a_table_of_another_layout_takes_no_image():
    twinned = TwinnedTable().advance(3)
    with pytest.raises(ValueError, match="another layout"):
        restore_image(make_table(5), image_of(twinned.table))
    assert isinstance(twinned.table, Table)

"""Items of saved shards, dealt to any number of shards of any layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CheckpointError
from replay_server import shard_deal
from replay_server.codec import Codec
from replay_server.shard_checkpoint import ShardSaver
from replay_server.shard_deal import MAX_PASSES, share
from replay_server.shard_restore import ShardRestore, restore_shard
from replay_server.table import PRIORITY_FLOOR
from support.hypothesis_profiles import examples
from support.replay import (
    PICTURE,
    VECTOR,
    make_table,
    random_chunk,
)
from support.shards import FOLDER, KINDS, TwinnedTable, contents, fresh_url


def without_mass(items):
    return {version: (item[0], item[1], item[3]) for version, item in items.items()}


# --- dealt again ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=5), st.integers(1, 6))
@examples(100)
def test_shares_are_equal_and_cover_everything_once(sizes, parts):
    taken = [np.zeros(size, np.int32) for size in sizes]
    counts = []
    for part in range(parts):
        pieces = list(share(sizes, part, parts))
        assert len(pieces) <= MAX_PASSES * (len(sizes) + 2)
        for place in range(len(sizes)):
            firsts = [first for where, first, _ in pieces if where == place]
            assert firsts == sorted(firsts), "not oldest first"
        for place, first, count in pieces:
            taken[place][first : first + count] += 1
            assert count > 0
        counts.append(sum(count for _, _, count in pieces))
    assert all((one == 1).all() for one in taken)
    assert max(counts) - min(counts) <= 1


def saved_shards(seeds, url, **named):
    """Tables saved as shards of one checkpoint; no version is in two of them."""
    saved = []
    for index, (seed, rounds) in enumerate(seeds):
        twinned = TwinnedTable(seed, **named)
        twinned.version = 1_000_000 * index
        twinned.advance(rounds)
        twinned.saver._table.shard = index
        twinned.origin = twinned.save(url, f"{FOLDER}/shard-{index}.rdqn")
        saved.append(twinned)
    return saved


def origin_of(saved, url, part, parts):
    files = {name: entry for twinned in saved for name, entry in twinned.origin.files.items()}
    shards = tuple(twinned.origin.shards[0] for twinned in saved)
    return ShardRestore(url, shards, files, part, parts)


@contextmanager
def small_rounds() -> Iterator[None]:
    """Items are dealt, and taken over, a few at a time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard_deal, "PASS_ITEMS", 3)
        patched.setattr(shard_deal, "CHUNK_ITEMS", 7)
        yield


def dealt(saved, url, parts, **named):
    tables = []
    for part in range(parts):
        table, _ = saved[0].restored(origin_of(saved, url, part, parts), **named)
        tables.append(table)
    return tables


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 25)), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from(KINDS[:3]),
    st.sampled_from(["none", "lz4", "png"]),
    st.sampled_from([(0.6, 0.6), (1.0, 1.0), (0.6, 0.4), (0.0, 0.6), (0.6, 0.0), (0.1, 0.1)]),
    st.integers(1, 3),
    st.integers(1, 30),
    st.sampled_from([0, 2]),
)
@examples(40)
def test_items_are_dealt_to_any_number_of_shards_of_any_layout(
    seeds, parts, kind, compression, alphas, stack, room, mask_bytes
):
    url = fresh_url()
    named = {"kind": kind, "stack": stack, "alpha": alphas[0], "capacity": 20}
    named["mask_bytes"] = mask_bytes
    saved = saved_shards(seeds, url, frame_capacity=60, **named)
    before = {v: item for twinned in saved for v, item in contents(twinned.table).items()}
    ample = {"capacity": 81, "frame_capacity": 4000, "alpha": alphas[1], "compression": compression}
    with small_rounds():
        tables = dealt(saved, url, parts, **ample)
        small = dealt(saved, url, parts, **{**ample, "capacity": room})
    after = [contents(table) for table in tables]
    together = {v: item for items in after for v, item in items.items()}
    sizes = [len(items) for items in after]
    assert sum(sizes) == len(together) == len(before)
    assert max(sizes) - min(sizes) <= 1
    assert without_mass(together) == without_mass(before)
    greatest = max(twinned.table.max_priority for twinned in saved)
    for version, item in before.items():
        mass = together[version][2]
        if alphas[1] == 0:
            assert mass == 1
        elif alphas[0] == 0:  # priorities are not known: as of a new item
            np.testing.assert_allclose(mass, (greatest + PRIORITY_FLOOR) ** alphas[1], rtol=1e-9)
        else:
            priority = item[2] ** (1 / alphas[0])
            np.testing.assert_allclose(mass, priority ** alphas[1], rtol=1e-9)
    for table, less, items in zip(tables, small, after, strict=True):
        # Where there is less room, it is the oldest that do not get in.
        left = contents(less)
        assert list(left) == list(items)[max(0, len(items) - room) :]
        assert less.inserted == table.inserted
        assert less.max_priority == table.max_priority >= greatest * (1 - 1e-9)
        if len(less):
            less.sample(8)
            chunk = random_chunk(
                np.random.default_rng(0), 1, 1, stack, kind[1], mask_bytes=mask_bytes
            )
            if compression != "none":
                chunk.frames = Codec(compression, kind[1]).pack(chunk.frames)
            less.insert(chunk)
            less.check()


@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize("max_frame_bytes", [None, 1500])
def test_little_room_for_frames_is_filled_with_the_newest(kind, max_frame_bytes):
    url = fresh_url()
    (twinned,) = saved_shards([(3, 60)], url, kind=kind, capacity=100, frame_capacity=400)
    before = list(contents(twinned.table))
    for stack_room in (20, 30, 60):
        named = {"frame_capacity": stack_room, "max_frame_bytes": max_frame_bytes}
        (table,) = dealt([twinned], url, 1, **named)
        kept = list(contents(table))
        assert kept == before[-len(kept) :]
        assert kept


def test_shards_with_frames_of_another_kind_are_refused():
    url = fresh_url()
    twinned = saved_shards([(0, 5)], url)[0]
    for spec, stack, said in (
        (VECTOR, 2, "frames of 'uint8'"),
        (replace(PICTURE, shape=(1, 4, 1)), 2, "frames of 'uint8'"),
        (PICTURE, 3, "stacks of 2 frames: must be 3"),
    ):
        table = make_table(12, 40, stack, spec=spec)
        with pytest.raises(CheckpointError, match=f"shard-0.rdqn: cannot be understood .{said}"):
            restore_shard(table, ShardSaver(table, spec), spec, origin_of([twinned], url, 0, 2))

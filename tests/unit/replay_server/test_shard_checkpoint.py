"""Shards on disk: restored bit for bit, or dealt anew; nothing hostile comes through."""

from __future__ import annotations

import copy
import errno
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.checkpoint import entry_of
from common.errors import CheckpointError, StillSavingError, UnknownFramesError
from common.storage import FsspecStorage, LocalStorage, open_storage
from replay_server import shard_deal
from replay_server.codec import GROUP_FRAMES, Codec
from replay_server.frames import PackedFrameStore
from replay_server.server import ReplayServer
from replay_server.shard_checkpoint import ShardSaver, segment_frames
from replay_server.shard_deal import MAX_PASSES, share
from replay_server.shard_restore import ShardRestore, restore_shard
from replay_server.table import PRIORITY_FLOOR, Table
from replay_server.table_image import image_of, restore_image
from support.hypothesis_profiles import examples
from support.replay import (
    PICTURE,
    VECTOR,
    NaiveTable,
    assert_same_as_twin,
    make_table,
    random_chunk,
)

KINDS = [
    ("none", PICTURE),
    ("lz4", PICTURE),
    ("zstd", PICTURE),
    ("png", PICTURE),
    ("none", VECTOR),
    ("zstd", VECTOR),
]
FOLDER = "000001-step-00000001"


def fresh_url():
    return f"memory://{uuid.uuid4()}"


class Life:
    """A table and its naive twin, and what happens to both. Items have unique versions."""

    def __init__(self, seed=0, kind=KINDS[0], stack=2, alpha=0.6, **named):
        self.compression, self.spec = kind
        self.rng, self.stack = np.random.default_rng(seed), stack
        self.named = {"capacity": 12, "frame_capacity": 40, **named}
        self.make = partial(
            make_table,
            stack=stack,
            alpha=alpha,
            spec=self.spec,
            compression=self.compression,
            **self.named,
        )
        self.table = self.make(incarnation=1)
        self.saver = ShardSaver(self.table, self.spec)
        group = 1 if self.compression == "none" else GROUP_FRAMES
        sizes = self.named["capacity"], self.named["frame_capacity"]
        self.twin = NaiveTable(*sizes, stack, alpha, incarnation=1, group=group)
        self.number, self.version = 0, 0

    def insert(self, reuse=True):
        table, twin, rng = self.table, self.twin, self.rng
        count = int(rng.integers(1, min(6, table.capacity) + 1))
        named = len(twin.streams.get(0, ())) if reuse else 0
        reused = rng.integers(0, named, rng.integers(0, named + 1)) if named else []
        own = int(rng.integers(0 if len(reused) else 1, 7))
        priority = rng.random(count) * rng.choice([0.0, 0.5, 9.0]) if rng.random() < 0.8 else None
        frames = len(reused) + own
        chunk = random_chunk(rng, count, frames, self.stack, self.spec, priority)
        chunk.version = np.arange(self.version, self.version + count)
        chunk.frames, chunk.reused = chunk.frames[len(reused) :], np.array(reused, np.int32)
        chunk.number = self.number + 1
        sent = chunk
        if self.compression != "none":
            packed = Codec(self.compression, self.spec).pack(chunk.frames)
            sent = replace(chunk, frames=packed)
        try:
            table.insert(sent)
        except UnknownFramesError:
            return
        twin.insert(chunk)
        self.number += 1
        self.version += count

    def update(self):
        keys = self.twin.inserted - 1 - self.rng.integers(0, self.table.capacity, 4)
        priorities = self.rng.random(4) * 3
        self.table.update_priorities(keys, priorities, 1)
        self.twin.update_priorities(keys, priorities, 1)

    def go_on(self, rounds, reuse=True):
        for _ in range(rounds):
            self.insert(reuse)
            if self.rng.random() < 0.3:
                self.update()
            if self.rng.random() < 0.3:
                self.table.sample(3)
        return self

    def save(self, url, name=f"{FOLDER}/shard-0.rdqn"):
        self.saver.begin(url, name, background=False)
        files = self.saver.outcome()
        assert files is not None
        return ShardRestore(url, (name,), files, 0, 1)

    def restored(self, origin, **named):
        """A table and its saver, with another random state than this one's."""
        table = self.make(seed=77, **named)
        saver = ShardSaver(table, self.spec)
        restore_shard(table, saver, self.spec, origin)
        table.check()
        return table, saver


def contents(table):
    """Version → everything else of each live item, stacks whole; by itself, from the rows."""
    live = table.live_slots()
    items, masses = table.items[live], table.tree.get(live)
    rows = np.unique(items["stacks"])
    frames = np.empty((len(rows), *table.frame.shape), table.frame.dtype)
    if len(rows):
        table.frames.gather(rows, frames)
    found = {}
    for item, mass, times in zip(items, masses, table.times_sampled[live], strict=True):
        whole = frames[np.searchsorted(rows, item["stacks"])].tobytes()
        rest = tuple(item[name].item() for name in ("action", "reward", "discount"))
        found[int(item["version"])] = (whole, rest, float(mass), int(times))
    assert len(found) == len(table), "an item is there twice"
    return found


def without_mass(items):
    return {version: (item[0], item[1], item[3]) for version, item in items.items()}


def assert_same_tables(one, other):
    """Every bit that either would ever show is the same."""
    images = image_of(one), image_of(other)
    for name in ("items", "mass", "times_sampled", "runs"):
        assert np.array_equal(*(getattr(image, name) for image in images)), name
    for name in ("first_frame", "written_frames", "layout", "inserted", "counters"):
        assert len({repr(getattr(image, name)) for image in images}) == 1, name
    assert images[0].max_priority == images[1].max_priority
    assert images[0].newest_version == images[1].newest_version
    assert one.summary().total == other.summary().total
    assert one.nbytes == other.nbytes
    exported = [t.frames.export(t.frames.first, t.frames.written) for t in (one, other)]
    for name, column in exported[0].items():
        assert np.array_equal(column, exported[1][name])


def assert_same_samples(one, other, count=16):
    if not len(one):
        return
    first, second = one.sample(count), other.sample(count)
    assert first.summary == second.summary
    for name in ("frames", "observation", "next_observation", "key", "probability", "age"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


# --- as it was --------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([(12, 40), (3, 60), (40, 30), (1, 24)]),
    st.integers(0, 40),
)
@examples(40)
def test_a_restored_shard_is_what_was_saved_and_lives_on_like_it(
    seed, kind, stack, alpha, sizes, rounds
):
    # After both rings have wrapped, with frames reused and held, evictions, and when empty.
    life = Life(seed, kind, stack, alpha, capacity=sizes[0], frame_capacity=sizes[1])
    life.go_on(rounds)
    origin = life.save(fresh_url())
    table, _ = life.restored(origin, incarnation=2)
    assert_same_tables(life.table, table)
    assert contents(life.table) == contents(table)
    # What goes on in the same process is what another would restore.
    life.table.new_attempt(2, np.random.default_rng(5))
    table.new_attempt(2, np.random.default_rng(5))
    life.twin.incarnation, life.twin.streams = 2, {}
    life.twin.stale = table.stale
    restored = copy.copy(life)
    restored.table, restored.twin = table, copy.deepcopy(life.twin)
    restored.rng = copy.deepcopy(life.rng)
    for _ in range(6):
        for one in (life, restored):
            one.insert()
            one.update()  # meant for the life before: refused
            one.table.check()
        assert_same_samples(life.table, table)
        assert_same_tables(life.table, table)
        for one in (life, restored):
            assert_same_as_twin(one.table, one.twin, draws=8)


def test_keys_and_streams_of_the_life_before_are_refused():
    life = Life().go_on(10)
    table, _ = life.restored(life.save(fresh_url()), incarnation=2)
    keys = np.arange(life.twin.inserted - 2, life.twin.inserted)
    assert table.update_priorities(keys, np.ones(2), 1).stale == 2
    assert table.update_priorities(keys, np.ones(2), 2).applied == 2
    chunk = random_chunk(life.rng, 1, 1)
    chunk.frames, chunk.reused = chunk.frames[:0], np.zeros(1, np.int32)
    chunk.number = life.number + 1
    for one in (table, life.table):
        if one is life.table:
            life.table.new_attempt(2, np.random.default_rng(0))
        with pytest.raises(UnknownFramesError):
            one.insert(chunk)


def test_a_server_begins_with_what_another_saved_in_the_background(tmp_path):
    life = Life().go_on(8)
    make = partial(ReplayServer, 12, PICTURE, 2, 0.6, 40, 3, 0)
    before = make(incarnation=1)
    restore_image(before._table, image_of(Life(capacity=12).table))  # empty
    before._table = life.table
    before._saver = life.saver
    name = f"{FOLDER}/shard-0.rdqn"
    before.begin_save(str(tmp_path), name, True)
    while (files := before.saved()) is None:
        time.sleep(0.001)
    after = make(incarnation=4, origin=ShardRestore(str(tmp_path), (name,), files, 0, 1))
    after.check()
    before.new_attempt(4)
    assert np.array_equal(before.sample(20), after.sample(20))
    assert before.summary() == after.summary()


def test_fewer_bytes_for_frames_push_out_the_oldest():
    life = Life(capacity=50, frame_capacity=200).go_on(20)
    origin = life.save(fresh_url())
    limit = life.table.frames.nbytes // 2
    table, _ = life.restored(origin, max_frame_bytes=limit)
    assert 0 < table.frames.nbytes <= limit
    all_of_it, left = contents(life.table), contents(table)
    assert list(left) == list(all_of_it)[-len(left) :]
    assert all(all_of_it[version] == item for version, item in left.items())


# --- written once -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:3])
def test_segments_are_written_once_and_go_on_after_a_restore(tmp_path, kind):
    life = Life(kind=kind, capacity=400, frame_capacity=400)
    length = segment_frames(life.spec, life.table.frames.capacity)
    assert length == 50
    life.go_on(45)
    origin = life.save(str(tmp_path))
    segments = {name for name in origin.files if name.startswith("frames/")}
    written = life.table.frames.written
    assert len(segments) == written // length > 1
    assert {name[:-18] for name in segments} == {
        f"frames/0-1-{index:06d}" for index in range(written // length)
    }
    for name in segments:  # the same name never means other frames
        assert name[-17:] == f"{origin.files[name]['sha256'][:12]}.rdqn"
    before = {name: (tmp_path / name).stat() for name in segments}

    def assert_untouched():
        for name, stat in before.items():
            now = (tmp_path / name).stat()
            assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)

    life.go_on(20)
    again = life.save(str(tmp_path), f"{FOLDER}/shard-1.rdqn")
    new = {name for name in again.files if name.startswith("frames/")} - segments
    assert len(new) == life.table.frames.written // length - len(segments) > 0
    assert segments < set(again.files)
    assert_untouched()
    # Whoever is restored from it knows them; another storage does not.
    table, saver = life.restored(again, incarnation=3)
    for url in (str(tmp_path), str(tmp_path / "other")):
        saver.begin(url, f"{FOLDER}/shard-2.rdqn", background=False)
        files = saver.outcome()
        assert files is not None
        shared = {name for name in files if name in again.files}
        assert shared == (segments | new if url == str(tmp_path) else set())
        name = f"{FOLDER}/shard-2.rdqn"
        twice, _ = life.restored(ShardRestore(url, (name,), files, 0, 1))
        assert_same_tables(table, twice)
    assert_untouched()


@pytest.mark.parametrize("harm", ["gone", "shorter"])
def test_segments_that_are_not_there_any_more_are_written_again(tmp_path, harm):
    life = Life(capacity=400, frame_capacity=400).go_on(45)
    first = life.save(str(tmp_path))
    *_, lost = sorted(name for name in first.files if name.startswith("frames/"))
    if harm == "gone":
        (tmp_path / lost).unlink()
    else:
        (tmp_path / lost).write_bytes(b"")
    again = life.save(str(tmp_path), f"{FOLDER}/shard-1.rdqn")
    assert again.files[lost] == first.files[lost] == entry_of((tmp_path / lost).read_bytes())


def test_who_goes_on_from_an_older_checkpoint_leaves_the_frames_of_newer_ones_alone(tmp_path):
    life = Life(capacity=400, frame_capacity=400).go_on(20)
    older = life.save(str(tmp_path))
    twin = Life(seed=7, capacity=400, frame_capacity=400)
    twin.table, twin.saver = life.restored(older, incarnation=1)
    newer = life.go_on(20).save(str(tmp_path), f"{FOLDER}/shard-1.rdqn")
    twin.go_on(20)
    twin.saver.begin(str(tmp_path), f"{FOLDER}/shard-2.rdqn", background=False)
    other = twin.saver.outcome()
    assert other is not None
    numbers = [{name[:17] for name in files if "frames" in name} for files in (newer.files, other)]
    assert numbers[0] & numbers[1] - {name[:17] for name in older.files}, "the same come again"
    for files in (newer.files, other):
        for name, entry in files.items():
            assert entry_of((tmp_path / name).read_bytes()) == entry


def test_what_the_ring_forgot_no_checkpoint_needs(tmp_path):
    life = Life(capacity=30, frame_capacity=100)
    for _ in range(12):
        life.go_on(9)
        origin = life.save(str(tmp_path))
        segments = sorted(name for name in origin.files if name.startswith("frames/"))
        assert len(segments) <= 100 // 10 + 1
        table, _ = life.restored(origin)
        assert_same_tables(life.table, table)
    assert segments[0] > "frames/0-1-000010.rdqn"


# --- while the table goes on ------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS[:3]), st.integers(0, 12), st.integers(0, 9))
@examples(60)
def test_what_comes_while_it_is_written_leaves_it_whole(seed, kind, meanwhile, before):
    # The ring may even turn over: then what was saved is what was left of it, and no less.
    life = Life(seed, kind, capacity=60, frame_capacity=80)
    life.go_on(before)
    url = fresh_url()
    write, export = FsspecStorage.write, life.table.frames.export
    for _ in range(3):
        life.go_on(int(life.rng.integers(0, 12)))
        items, inserted = contents(life.table), life.table.inserted
        with pytest.MonkeyPatch.context() as patched:

            def slow(self, name, data):
                write(self, name, data)
                life.go_on(int(life.rng.integers(0, meanwhile + 1)))

            def late(begin, end):
                life.go_on(int(life.rng.integers(0, meanwhile + 1)))
                return export(begin, end)

            patched.setattr(FsspecStorage, "write", slow)
            patched.setattr(life.table.frames, "export", late)
            origin = life.save(url)
        table, _ = life.restored(origin)
        left = contents(table)
        assert table.inserted == inserted
        assert list(left) == list(items)[len(items) - len(left) :]
        assert all(items[version] == item for version, item in left.items())
        if not meanwhile:
            assert left == items


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_thread_saves_whole_tables_while_inserts_go_on(tmp_path, kind, monkeypatch):
    life = Life(kind=kind, capacity=60, frame_capacity=80).go_on(20)
    write = LocalStorage.write

    def slow(self, name, data):
        write(self, name, data)
        time.sleep(0.001)

    monkeypatch.setattr(LocalStorage, "write", slow)
    monkeypatch.setattr("os.fsync", lambda _: None)
    overtaken = 0
    for number in range(25):
        name = f"{number + 1:06d}-step-00000001/shard-0.rdqn"
        items = contents(life.table)
        life.saver.begin(str(tmp_path), name, background=True)
        while (files := life.saver.outcome()) is None:
            for _ in range(5):
                life.insert()
            time.sleep(0.0003)
        table, _ = life.restored(ShardRestore(str(tmp_path), (name,), files, 0, 1))
        left = contents(table)
        assert list(left) == list(items)[len(items) - len(left) :]
        assert all(items[version] == item for version, item in left.items())
        overtaken += len(left) < len(items)
        life.table.check()
    assert overtaken, "the table never overtook the writer"


def test_a_group_is_given_up_before_it_goes():
    # Or a thread that copies it meanwhile would take the empty place for frames.
    codec = Codec("lz4", PICTURE)
    store = PackedFrameStore(20, codec)

    class Watched(list):
        def __setitem__(self, index, group):
            assert group or store.first > index * GROUP_FRAMES
            super().__setitem__(index, group)

    store._groups = Watched(store._groups)
    store.write(codec.pack(np.ones((15, *PICTURE.shape), np.uint8)))
    store.forget(11)
    assert store._groups == [b"", b"", store._groups[2], b""]


def test_one_save_at_a_time(tmp_path, monkeypatch):
    life, go_on = Life().go_on(5), threading.Event()
    write = LocalStorage.write

    def held(self, name, data):
        assert go_on.wait(30)
        write(self, name, data)

    monkeypatch.setattr(LocalStorage, "write", held)
    life.saver.begin(str(tmp_path), "a/b", background=True)
    assert life.saver.outcome() is None
    with pytest.raises(StillSavingError, match="the previous save is in progress"):
        life.saver.begin(str(tmp_path), "a/c", background=True)
    go_on.set()
    while life.saver.outcome() is None:
        time.sleep(0.001)
    assert set(life.saver.outcome() or ()) >= {"a/b"}


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("full_at", [0, 1, 3])
def test_a_full_disk_fails_the_save_and_not_the_next(tmp_path, monkeypatch, full_at, background):
    life = Life(capacity=60, frame_capacity=80).go_on(15)
    write, written = LocalStorage.write, []

    def until_full(self, name, data):
        if len(written) >= full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(name)
        write(self, name, data)

    def outcome():
        while (files := life.saver.outcome()) is None:
            time.sleep(0.001)
        return files

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "write", until_full)
        life.saver.begin(str(tmp_path), "a/b", background)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                outcome()
    life.saver.begin(str(tmp_path), "a/b", background)
    files = outcome()
    assert set(written) <= set(files)
    table, _ = life.restored(ShardRestore(str(tmp_path), ("a/b",), files, 0, 1))
    assert_same_tables(life.table, table)


# --- dealt anew -------------------------------------------------------------------------------


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
    """Lives of shards in one checkpoint; no version is in two of them."""
    lives = []
    for index, (seed, rounds) in enumerate(seeds):
        life = Life(seed, **named)
        life.version = 1_000_000 * index
        life.go_on(rounds)
        life.saver._table.shard = index
        life.origin = life.save(url, f"{FOLDER}/shard-{index}.rdqn")
        lives.append(life)
    return lives


def origin_of(lives, url, part, parts):
    files = {name: entry for life in lives for name, entry in life.origin.files.items()}
    shards = tuple(life.origin.shards[0] for life in lives)
    return ShardRestore(url, shards, files, part, parts)


@contextmanager
def small_rounds() -> Iterator[None]:
    """Items are dealt, and taken over, a few at a time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard_deal, "PASS_ITEMS", 3)
        patched.setattr(shard_deal, "CHUNK_ITEMS", 7)
        yield


def dealt(lives, url, parts, **named):
    tables = []
    for part in range(parts):
        table, _ = lives[0].restored(origin_of(lives, url, part, parts), **named)
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
)
@examples(40)
def test_items_are_dealt_to_any_number_of_shards_of_any_layout(
    seeds, parts, kind, compression, alphas, stack, room
):
    url = fresh_url()
    named = {"kind": kind, "stack": stack, "alpha": alphas[0], "capacity": 20}
    lives = saved_shards(seeds, url, frame_capacity=60, **named)
    before = {v: item for life in lives for v, item in contents(life.table).items()}
    ample = {"capacity": 81, "frame_capacity": 4000, "alpha": alphas[1], "compression": compression}
    with small_rounds():
        tables = dealt(lives, url, parts, **ample)
        small = dealt(lives, url, parts, **{**ample, "capacity": room})
    after = [contents(table) for table in tables]
    together = {v: item for items in after for v, item in items.items()}
    sizes = [len(items) for items in after]
    assert sum(sizes) == len(together) == len(before)
    assert max(sizes) - min(sizes) <= 1
    assert without_mass(together) == without_mass(before)
    greatest = max(life.table.max_priority for life in lives)
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
            chunk = random_chunk(np.random.default_rng(0), 1, 1, stack, kind[1])
            if compression != "none":
                chunk.frames = Codec(compression, kind[1]).pack(chunk.frames)
            less.insert(chunk)
            less.check()


@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize("max_frame_bytes", [None, 1500])
def test_little_room_for_frames_is_filled_with_the_newest(kind, max_frame_bytes):
    url = fresh_url()
    (life,) = saved_shards([(3, 60)], url, kind=kind, capacity=100, frame_capacity=400)
    before = list(contents(life.table))
    for stack_room in (20, 30, 60):
        named = {"frame_capacity": stack_room, "max_frame_bytes": max_frame_bytes}
        (table,) = dealt([life], url, 1, **named)
        kept = list(contents(table))
        assert kept == before[-len(kept) :]
        assert kept


def test_shards_with_frames_of_another_kind_are_refused():
    url = fresh_url()
    life = saved_shards([(0, 5)], url)[0]
    for spec, stack, said in (
        (VECTOR, 2, "frames of 'uint8'"),
        (replace(PICTURE, shape=(1, 4, 1)), 2, "frames of 'uint8'"),
        (PICTURE, 3, "stacks of 2 frames: must be 3"),
    ):
        table = make_table(12, 40, stack, spec=spec)
        with pytest.raises(CheckpointError, match=f"shard-0.rdqn: cannot be understood .{said}"):
            restore_shard(table, ShardSaver(table, spec), spec, origin_of([life], url, 0, 2))


# --- hostile ----------------------------------------------------------------------------------

SPARE_BYTES, FACTOR = 1 << 20, 64


def put(origin, name, data):
    """Put other bytes in place of a file, and let the manifest agree."""
    open_storage(origin.url).write(name, data)
    return replace(origin, files={**origin.files, name: entry_of(data)})


def assert_refused_or_right(life, origin, must_refuse=False):
    """Whatever the bytes: one line that names a file, or a table without a contradiction."""
    total = sum(entry["bytes"] for entry in origin.files.values())
    for changed in ({}, {"alpha": 0.5, "frame_capacity": 200}):
        table = life.make(seed=1, **changed)
        saver = ShardSaver(table, life.spec)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        try:
            restore_shard(table, saver, life.spec, origin)
        except CheckpointError as error:
            said = str(error)
            assert len(said.splitlines()) == 1, said
            assert said.startswith(f"{origin.url}/"), said
            assert len(said) < 500, said
        else:
            assert not must_refuse, changed
            table.check()
        finally:
            claimed = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
        assert claimed < SPARE_BYTES + FACTOR * total


@pytest.fixture(scope="module", params=[KINDS[0], KINDS[1]], ids=["none", "lz4"])
def victim(request):
    """A saved shard, and the bytes of its file."""
    life = Life(2, request.param).go_on(20)
    origin = life.save(fresh_url())
    return life, origin, bytes(open_storage(origin.url).read(origin.shards[0]))


HOSTILE = [-1, 0, 1, 3, 1 << 31, 1 << 40, (1 << 62) - 1, 1 << 63, 0.5, float("nan"), float("inf")]
HOSTILE += [None, True, "", "x\ny" * 400, [], [[]], {}, [1, 2, 3], [["../../etc/passwd", 0, 5]]]


def test_every_value_of_the_header_may_be_anything(victim):
    life, origin, data = victim
    columns, meta = wire.decode(data)
    segments = [[name, first, count] for name, first, count in meta["segments"]]
    hostile = [*HOSTILE, segments * 2, segments[::-1], segments[1:], segments[:-1]]
    hostile += [[["frames/other.rdqn", *segments[0][1:]], *segments[1:]]]
    hostile += [[[segments[-1][0], *segments[0][1:]], *segments[1:]]]
    for key in meta:
        for value in hostile:
            changed = {**meta, key: value}
            assert_refused_or_right(
                life, put(origin, origin.shards[0], wire.encode(columns, changed))
            )
        without = {k: v for k, v in meta.items() if k != key}
        refused = put(origin, origin.shards[0], wire.encode(columns, without))
        assert_refused_or_right(life, refused, must_refuse=True)
    for part in ("layout", "counters"):
        for key in meta[part]:
            for value in HOSTILE:
                changed = {**meta, part: {**meta[part], key: value}}
                assert_refused_or_right(
                    life, put(origin, origin.shards[0], wire.encode(columns, changed))
                )


def test_every_column_may_be_anything(victim):
    life, origin, data = victim
    columns, meta = wire.decode(data)
    for key, column in columns.items():
        others = [column[:-1], column[:0], column.astype(np.float32), column.astype(np.int16)]
        others += [column[None], np.zeros((), column.dtype), np.concatenate((column, column))]
        for other in others:
            if other.dtype == column.dtype and np.array_equal(other, column):
                continue
            changed = put(origin, origin.shards[0], wire.encode({**columns, key: other}, meta))
            assert_refused_or_right(life, changed)
        for value in (-1, 0, 5, 2**31 - 1, -(2**31), 1e300, np.nan, np.inf):
            other = column.copy()
            with np.errstate(invalid="ignore", over="ignore"):
                other.reshape(-1)[-1:] = np.array([value]).astype(column.dtype)
            changed = put(origin, origin.shards[0], wire.encode({**columns, key: other}, meta))
            assert_refused_or_right(life, changed)
        without = {k: v for k, v in columns.items() if k != key}
        refused = put(origin, origin.shards[0], wire.encode(without, meta))
        assert_refused_or_right(life, refused, must_refuse=True)


@pytest.mark.parametrize("key", ["capacity", "frame_rows"])
def test_a_layout_claims_no_memory(victim, key):
    life, origin, data = victim
    columns, meta = wire.decode(data)
    meta["layout"][key] = 1 << 40
    assert_refused_or_right(life, put(origin, origin.shards[0], wire.encode(columns, meta)))


def test_frames_that_no_file_holds_claim_no_memory(victim):
    life, origin, data = victim
    columns, meta = wire.decode(data)
    meta["layout"]["frame_rows"] = 1 << 30
    meta["written_frames"] = meta["first_frame"] + (1 << 29) // GROUP_FRAMES * GROUP_FRAMES
    refused = put(origin, origin.shards[0], wire.encode(columns, meta))
    assert_refused_or_right(life, refused, must_refuse=True)


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
    life, origin, data = victim
    columns, meta = wire.decode(bytearray(data))
    change(columns, meta)
    refused = put(origin, origin.shards[0], wire.encode(columns, meta))
    table = life.make()
    with pytest.raises(CheckpointError, match=rf"shard-0\.rdqn: cannot be understood .*{said}"):
        restore_shard(table, ShardSaver(table, life.spec), life.spec, refused)


def test_a_segment_of_other_frames_is_refused(victim):
    life, origin, _ = victim
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
        assert_refused_or_right(life, put(origin, first, other), must_refuse=True)
    put(origin, first, segments[first])
    assert_refused_or_right(life, origin)


def test_groups_that_cannot_be_unpacked_are_refused_when_dealt():
    life = Life(2, KINDS[1]).go_on(20)
    origin = life.save(fresh_url())
    for name in origin.files:
        columns, meta = wire.decode(bytearray(open_storage(origin.url).read(name)))
        for column in ("packed", "frame.packed"):  # of a segment; of frames background the items
            if column in columns:
                columns[column].fill(0xFF)
        origin = put(origin, name, wire.encode(columns, meta))
    with pytest.raises(CheckpointError, match=r"shard-0\.rdqn: cannot be understood .*unpacked"):
        life.restored(origin, capacity=20)


def test_a_file_that_is_cut_off_or_damaged_is_named(victim):
    life, origin, data = victim
    name = origin.shards[0]
    storage = open_storage(origin.url)
    storage.write(name, data[:-1])
    with pytest.raises(CheckpointError, match=rf"^{origin.url}/{name}: cut off"):
        life.restored(origin)
    storage.write(name, data[:-1] + b"!")
    with pytest.raises(CheckpointError, match=rf"^{origin.url}/{name}: damaged"):
        life.restored(origin)
    storage.remove(name)
    with pytest.raises(CheckpointError, match=rf"^{origin.url}/{name}: cannot be read"):
        life.restored(origin)
    storage.write(name, data)
    life.restored(origin)


@given(st.data())
@examples(150)
def test_no_bytes_end_in_anything_but_a_shard_or_an_error_that_names_it(victim, data):
    life, origin, _ = victim
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
        assert_refused_or_right(life, put(origin, name, bytes(mutated)))
    finally:
        open_storage(origin.url).write(name, right)


def test_a_table_of_another_layout_takes_no_image():
    life = Life().go_on(3)
    with pytest.raises(ValueError, match="another layout"):
        restore_image(make_table(5), image_of(life.table))
    assert isinstance(life.table, Table)

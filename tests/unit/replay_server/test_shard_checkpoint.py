"""Shards on disk: restored bit for bit, frames written once, saves while the table changes."""

from __future__ import annotations

import copy
import errno
import threading
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.checkpoint import entry_of
from common.errors import StillSavingError, UnknownFramesError
from common.item import transition_item
from common.storage import FsspecStorage, LocalStorage
from replay_server.codec import GROUP_FRAMES, Codec
from replay_server.frames import PackedFrameStore
from replay_server.server import ReplayServer
from replay_server.shard_checkpoint import segment_frames
from replay_server.shard_restore import ShardRestore
from replay_server.table_image import image_of, restore_image
from support.hypothesis_profiles import examples
from support.replay import (
    PICTURE,
    assert_same_as_twin,
    random_chunk,
)
from support.shards import FOLDER, KINDS, TwinnedTable, contents, fresh_url


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
    for name in ("frames", "key", "probability", "age"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    for name, column in first.columns.items():
        assert np.array_equal(column, second[name]), name


# --- as it was --------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([(12, 40), (3, 60), (40, 30), (1, 24)]),
    st.integers(0, 40),
    st.sampled_from([0, 1, 3]),
)
@examples(40)
def test_a_restored_shard_equals_the_saved_one_and_continues_like_it(
    seed, kind, stack, alpha, sizes, rounds, mask_bytes
):
    # After both rings have wrapped, with frames reused and held, evictions, and when empty.
    named = {"capacity": sizes[0], "frame_capacity": sizes[1], "mask_bytes": mask_bytes}
    twinned = TwinnedTable(seed, kind, stack, alpha, **named)
    twinned.advance(rounds)
    origin = twinned.save(fresh_url())
    table, _ = twinned.restored(origin, incarnation=2)
    assert_same_tables(twinned.table, table)
    assert contents(twinned.table) == contents(table)
    # The same process continues with what another process would restore.
    twinned.table.new_attempt(2, np.random.default_rng(5))
    table.new_attempt(2, np.random.default_rng(5))
    twinned.twin.incarnation, twinned.twin.streams = 2, {}
    twinned.twin.stale = table.stale
    restored = copy.copy(twinned)
    restored.table, restored.twin = table, copy.deepcopy(twinned.twin)
    restored.rng = copy.deepcopy(twinned.rng)
    for _ in range(6):
        for one in (twinned, restored):
            one.insert()
            one.update()  # meant for the incarnation before: refused
            one.table.check()
        assert_same_samples(twinned.table, table)
        assert_same_tables(twinned.table, table)
        for one in (twinned, restored):
            assert_same_as_twin(one.table, one.twin, draws=8)


def test_keys_and_streams_of_the_incarnation_before_are_refused():
    twinned = TwinnedTable().advance(10)
    table, _ = twinned.restored(twinned.save(fresh_url()), incarnation=2)
    keys = np.arange(twinned.twin.inserted - 2, twinned.twin.inserted)
    assert table.update_priorities(keys, np.ones(2), 1).stale == 2
    assert table.update_priorities(keys, np.ones(2), 2).applied == 2
    chunk = random_chunk(twinned.rng, 1, 1)
    chunk.frames, chunk.reused = chunk.frames[:0], np.zeros(1, np.int32)
    chunk.number = twinned.number + 1
    for one in (table, twinned.table):
        if one is twinned.table:
            twinned.table.new_attempt(2, np.random.default_rng(0))
        with pytest.raises(UnknownFramesError):
            one.insert(chunk)


def test_a_server_begins_with_what_another_saved_in_the_background(tmp_path):
    twinned = TwinnedTable().advance(8)
    make = partial(ReplayServer, 12, PICTURE, transition_item(2), 0.6, 40, 3, 0)
    before = make(incarnation=1)
    restore_image(before._table, image_of(TwinnedTable(capacity=12).table))  # empty
    before._table = twinned.table
    before._saver = twinned.saver
    name = f"{FOLDER}/shard-0.rdqn"
    before.begin_save(str(tmp_path), name, True)
    while (files := before.saved()) is None:
        time.sleep(0.001)
    after = make(incarnation=4, restore=ShardRestore(str(tmp_path), (name,), files, 0, 1))
    after.check()
    before.new_attempt(4)
    assert np.array_equal(before.sample(20), after.sample(20))
    assert before.summary() == after.summary()


def test_fewer_bytes_for_frames_push_out_the_oldest():
    twinned = TwinnedTable(capacity=50, frame_capacity=200).advance(20)
    origin = twinned.save(fresh_url())
    limit = twinned.table.frames.nbytes // 2
    table, _ = twinned.restored(origin, max_frame_bytes=limit)
    assert 0 < table.frames.nbytes <= limit
    all_of_it, left = contents(twinned.table), contents(table)
    assert list(left) == list(all_of_it)[-len(left) :]
    assert all(all_of_it[version] == item for version, item in left.items())


# --- written once -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:3])
def test_segments_are_written_once_and_continue_after_a_restore(tmp_path, kind):
    twinned = TwinnedTable(kind=kind, capacity=400, frame_capacity=400)
    length = segment_frames(twinned.spec, twinned.table.frames.capacity)
    assert length == 50
    twinned.advance(45)
    origin = twinned.save(str(tmp_path))
    segments = {name for name in origin.files if name.startswith("frames/")}
    written = twinned.table.frames.written
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

    twinned.advance(20)
    again = twinned.save(str(tmp_path), f"{FOLDER}/shard-1.rdqn")
    new = {name for name in again.files if name.startswith("frames/")} - segments
    assert len(new) == twinned.table.frames.written // length - len(segments) > 0
    assert segments < set(again.files)
    assert_untouched()
    # A shard restored from it knows them; another storage does not.
    table, saver = twinned.restored(again, incarnation=3)
    for url in (str(tmp_path), str(tmp_path / "other")):
        saver.begin(url, f"{FOLDER}/shard-2.rdqn", background=False)
        files = saver.outcome()
        assert files is not None
        shared = {name for name in files if name in again.files}
        assert shared == (segments | new if url == str(tmp_path) else set())
        name = f"{FOLDER}/shard-2.rdqn"
        twice, _ = twinned.restored(ShardRestore(url, (name,), files, 0, 1))
        assert_same_tables(table, twice)
    assert_untouched()


@pytest.mark.parametrize("harm", ["gone", "shorter"])
def test_segments_that_are_not_there_any_more_are_written_again(tmp_path, harm):
    twinned = TwinnedTable(capacity=400, frame_capacity=400).advance(45)
    first = twinned.save(str(tmp_path))
    *_, lost = sorted(name for name in first.files if name.startswith("frames/"))
    if harm == "gone":
        (tmp_path / lost).unlink()
    else:
        (tmp_path / lost).write_bytes(b"")
    again = twinned.save(str(tmp_path), f"{FOLDER}/shard-1.rdqn")
    assert again.files[lost] == first.files[lost] == entry_of((tmp_path / lost).read_bytes())


def test_a_shard_restored_from_an_older_checkpoint_leaves_the_frames_of_newer_ones_alone(tmp_path):
    twinned = TwinnedTable(capacity=400, frame_capacity=400).advance(20)
    older = twinned.save(str(tmp_path))
    twin = TwinnedTable(seed=7, capacity=400, frame_capacity=400)
    twin.table, twin.saver = twinned.restored(older, incarnation=1)
    newer = twinned.advance(20).save(str(tmp_path), f"{FOLDER}/shard-1.rdqn")
    twin.advance(20)
    twin.saver.begin(str(tmp_path), f"{FOLDER}/shard-2.rdqn", background=False)
    other = twin.saver.outcome()
    assert other is not None
    numbers = [{name[:17] for name in files if "frames" in name} for files in (newer.files, other)]
    assert numbers[0] & numbers[1] - {name[:17] for name in older.files}, "the same come again"
    for files in (newer.files, other):
        for name, entry in files.items():
            assert entry_of((tmp_path / name).read_bytes()) == entry


def test_what_the_ring_forgot_no_checkpoint_needs(tmp_path):
    twinned = TwinnedTable(capacity=30, frame_capacity=100)
    for _ in range(12):
        twinned.advance(9)
        origin = twinned.save(str(tmp_path))
        segments = sorted(name for name in origin.files if name.startswith("frames/"))
        assert len(segments) <= 100 // 10 + 1
        table, _ = twinned.restored(origin)
        assert_same_tables(twinned.table, table)
    assert segments[0] > "frames/0-1-000010.rdqn"


# --- while the table changes ------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS[:3]), st.integers(0, 12), st.integers(0, 9))
@examples(60)
def test_inserts_while_a_checkpoint_is_written_leave_it_whole(seed, kind, meanwhile, before):
    # The ring may even turn over: then what was saved is what was left of it, and no less.
    twinned = TwinnedTable(seed, kind, capacity=60, frame_capacity=80)
    twinned.advance(before)
    url = fresh_url()
    write, export = FsspecStorage.write, twinned.table.frames.export
    for _ in range(3):
        twinned.advance(int(twinned.rng.integers(0, 12)))
        items, inserted = contents(twinned.table), twinned.table.inserted
        with pytest.MonkeyPatch.context() as patched:

            def slow(self, name, data):
                write(self, name, data)
                twinned.advance(int(twinned.rng.integers(0, meanwhile + 1)))

            def late(begin, end):
                twinned.advance(int(twinned.rng.integers(0, meanwhile + 1)))
                return export(begin, end)

            patched.setattr(FsspecStorage, "write", slow)
            patched.setattr(twinned.table.frames, "export", late)
            origin = twinned.save(url)
        table, _ = twinned.restored(origin)
        left = contents(table)
        assert table.inserted == inserted
        assert list(left) == list(items)[len(items) - len(left) :]
        assert all(items[version] == item for version, item in left.items())
        if not meanwhile:
            assert left == items


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_thread_saves_whole_tables_while_inserts_continue(tmp_path, kind, monkeypatch):
    twinned = TwinnedTable(kind=kind, capacity=60, frame_capacity=80).advance(20)
    write = LocalStorage.write

    def slow(self, name, data):
        write(self, name, data)
        time.sleep(0.001)

    monkeypatch.setattr(LocalStorage, "write", slow)
    monkeypatch.setattr("os.fsync", lambda _: None)
    overtaken = 0
    for number in range(25):
        name = f"{number + 1:06d}-step-00000001/shard-0.rdqn"
        items = contents(twinned.table)
        twinned.saver.begin(str(tmp_path), name, background=True)
        while (files := twinned.saver.outcome()) is None:
            for _ in range(5):
                twinned.insert()
            time.sleep(0.0003)
        table, _ = twinned.restored(ShardRestore(str(tmp_path), (name,), files, 0, 1))
        left = contents(table)
        assert list(left) == list(items)[len(items) - len(left) :]
        assert all(items[version] == item for version, item in left.items())
        overtaken += len(left) < len(items)
        twinned.table.check()
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
    twinned, proceed = TwinnedTable().advance(5), threading.Event()
    write = LocalStorage.write

    def held(self, name, data):
        assert proceed.wait(30)
        write(self, name, data)

    monkeypatch.setattr(LocalStorage, "write", held)
    twinned.saver.begin(str(tmp_path), "a/b", background=True)
    assert twinned.saver.outcome() is None
    with pytest.raises(StillSavingError, match="the previous save is still in progress"):
        twinned.saver.begin(str(tmp_path), "a/c", background=True)
    proceed.set()
    while twinned.saver.outcome() is None:
        time.sleep(0.001)
    assert set(twinned.saver.outcome() or ()) >= {"a/b"}


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("full_at", [0, 1, 3])
def test_a_full_disk_fails_the_save_and_not_the_next(tmp_path, monkeypatch, full_at, background):
    twinned = TwinnedTable(capacity=60, frame_capacity=80).advance(15)
    write, written = LocalStorage.write, []

    def until_full(self, name, data):
        if len(written) >= full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(name)
        write(self, name, data)

    def outcome():
        while (files := twinned.saver.outcome()) is None:
            time.sleep(0.001)
        return files

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "write", until_full)
        twinned.saver.begin(str(tmp_path), "a/b", background)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                outcome()
    twinned.saver.begin(str(tmp_path), "a/b", background)
    files = outcome()
    assert set(written) <= set(files)
    table, _ = twinned.restored(ShardRestore(str(tmp_path), ("a/b",), files, 0, 1))
    assert_same_tables(twinned.table, table)

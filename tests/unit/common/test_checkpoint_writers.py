"""Writers of checkpoints that fail, and readers beside a writer."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from common.checkpoint import CheckpointStore, entry_of
from common.errors import CheckpointError, StorageError
from common.storage import LocalStorage
from support.checkpoints import STATE, TENSORS, assert_holds, commit, names, read_all

# --- failing writers --------------------------------------------------------------------------


@pytest.mark.parametrize("failing_write", [0, 1, 2, 3])
def test_a_failing_write_leaves_the_earlier_checkpoint_and_no_litter(
    store, folder, monkeypatch, failing_write
):
    commit(store, 1, {"shard-0.rdqn": b"x"}, ["frames/0-0-000000.rdqn"])
    name = store.new_name(2)
    frames = "frames/0-0-000001.rdqn"
    files = {f"{name}/shard-0.rdqn": entry_of(b"y"), frames: entry_of(frames.encode())}
    for path, data in zip(files, (b"y", frames.encode()), strict=True):
        store.storage.write(path, data)
    store.storage.write("frames/0-0-000000-of-one-that-failed-before.rdqn", b"z")
    fsync, synced = os.fsync, []

    def fail_sometime(descriptor):
        synced.append(descriptor)
        if len(synced) > 2 * failing_write:  # of the file, and of its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_sometime)
        with pytest.raises(OSError, match="No space left"):
            store.commit(name, TENSORS, {}, files)
    assert store.names() == ["000001-step-00000001"]
    assert_holds(store.newest(), TENSORS, {"step": 1})
    # Room for the next is made at once, but for the frames that need not be written again.
    assert names(folder) == ["000001-step-00000001", "frames"]
    assert names(folder / "frames") == ["0-0-000000.rdqn", "0-0-000001.rdqn"]
    assert commit(store, 3, {}, ["frames/0-0-000001.rdqn"])[:6] == "000003"


def test_what_failed_is_discarded_and_that_cannot_fail_itself(store, folder, monkeypatch):
    store.save(1, {}, {})
    name = store.new_name(2)
    store.storage.write(f"{name}/shard-0.rdqn", b"x")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "remove", fail)
        store.discard(name)
    assert name in names(folder)
    store.discard(name)
    assert names(folder) == ["000001-step-00000001"]


def test_a_checkpoint_that_is_there_stays_though_tidying_fails(store, folder, monkeypatch):
    for step in range(3):
        store.save(step, {}, {"step": step})

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "remove", fail)
        store.save(3, {}, {"step": 3})
        assert "Input/output" in str(store.prune_error)
    assert store.newest().state == {"step": 3}
    store.save(4, {}, {"step": 4})
    assert store.prune_error is None
    assert len(names(folder)) == 3


@pytest.mark.parametrize("harm", ["gone", "shorter"])
@pytest.mark.parametrize("file", ["shard-0.rdqn", "frames"])
def test_what_others_wrote_must_be_there_before_a_checkpoint_counts(tmp_path, file, harm):
    # As where each node writes into a folder of its own: what went for it could not be got back.
    store = CheckpointStore(LocalStorage(tmp_path), keep=1)
    whole = commit(store, 1, {"shard-0.rdqn": b"x"}, ["frames/0-0-000000.rdqn"])
    name = store.new_name(2)
    path = f"{name}/shard-0.rdqn" if file != "frames" else "frames/0-0-000001.rdqn"
    if harm == "shorter":
        store.storage.write(path, b"y")
    with pytest.raises(
        OSError, match=rf"{path}: not visible from here.*all nodes must reach checkpoint.storage"
    ):
        store.commit(name, TENSORS, {"step": 2}, {path: entry_of(b"yy")})
    assert store.names() == [whole]
    read_all(store, store.newest())
    assert names(tmp_path) == [whole, "frames"]


def test_nothing_goes_after_a_failure_while_a_writer_may_be_active(store, folder):
    name = store.new_name(1)
    for path in (f"{name}/shard-0.rdqn", "frames/0-0-000000.rdqn", f"{name[:-1]}9/shard-0.rdqn"):
        store.storage.write(path, b"x")
    store.discard(name)
    assert names(folder) == [f"{name[:-1]}9", "frames"]
    store.discard(name, ())
    assert names(folder) == []


@pytest.mark.parametrize("value", [np.array([{}], object), np.array(["text"])])
def test_objects_are_not_saved(store, folder, value):
    store.save(1, TENSORS, STATE)
    with pytest.raises(SafetensorError, match="dtype"):
        store.save(2, {"learner": {"w": value}}, {})
    assert names(folder) == ["000001-step-00000001"]


def test_a_state_that_json_cannot_hold_leaves_the_earlier_checkpoint(store, folder):
    store.save(1, TENSORS, STATE)
    with pytest.raises(TypeError):
        store.save(2, TENSORS, {"x": object()})
    assert names(folder) == ["000001-step-00000001"]


# --- readers ----------------------------------------------------------------------------------


def test_a_reader_always_finds_one_while_the_writer_prunes(folder):
    writer = CheckpointStore(LocalStorage(folder), keep=1)
    writer.save(0, TENSORS, {"step": 0})
    done = threading.Event()

    def write():
        for step in range(1, 60):
            writer.save(step, TENSORS, {"step": step})
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reader, steps = CheckpointStore(LocalStorage(folder), keep=1), [0]
    try:
        while not done.is_set():
            found = reader.newest()
            assert_holds(found, TENSORS, found.state)
            steps.append(found.state["step"])
    finally:
        thread.join()
    assert steps == sorted(steps)
    assert len(set(steps)) > 3


def test_a_writer_may_move_on_while_the_newest_is_read(store, folder, monkeypatch):
    store.save(1, TENSORS, {"try": 1})
    load, reads = CheckpointStore.load, []

    def overtaken_once(self, name):
        reads.append(name)
        if len(reads) == 1:
            CheckpointStore(LocalStorage(folder), keep=1).save(2, TENSORS, {"try": 2})
        return load(self, name)

    monkeypatch.setattr(CheckpointStore, "load", overtaken_once)
    assert store.newest().state == {"try": 2}
    assert reads == ["000001-step-00000001", "000002-step-00000002"]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_storage_that_does_not_answer_is_the_users_to_mend(store, monkeypatch, fails_at):
    name = store.save(1, TENSORS, STATE)
    (Path(store.storage.url) / name / "state.json").write_bytes(b"")
    sizes, calls = LocalStorage.sizes, []

    def fail_later(self):
        calls.append(1)
        if len(calls) >= fails_at:
            raise StorageError("s3://bucket/run: no route to host")
        return sizes(self)

    monkeypatch.setattr(LocalStorage, "sizes", fail_later)
    with pytest.raises(CheckpointError, match=r"cannot be read \(s3://bucket/run: no route"):
        store.newest()

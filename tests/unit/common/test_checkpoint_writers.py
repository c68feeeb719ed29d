"""Writers of checkpoints that fail or are killed, and readers beside a writer."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from common.checkpoint import CheckpointStore, entry_of, read_verified
from common.errors import CheckpointError, StorageError
from common.storage import LocalStorage
from support.checkpoints import STATE, TENSORS, assert_holds, commit, names
from support.forks import forks_of
from support.program import wait_for

# --- failing and killed writers ---------------------------------------------------------------


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


SAVE_ON_AND_ON = """
import sys
from pathlib import Path
import numpy as np
from common.checkpoint import CheckpointStore, entry_of
from common.storage import LocalStorage

store = CheckpointStore(LocalStorage(Path(sys.argv[1])), keep=2)
step = int(sys.argv[2])
while True:
    step += 1
    name = store.new_name(step)
    files = {}
    for index in range(step, step + 3):
        path, data = f"frames/0-0-{index:06d}.rdqn", np.full(50_000, index % 256, np.uint8)
        if path not in store.storage.sizes():
            store.storage.write(path, data)
        files[path] = entry_of(data)
    store.commit(name, {"learner": {"w": np.full(30_000, float(step))}}, {"step": step}, files)
    print(step, flush=True)
"""


def read_all(store, found):
    for path in found.files:
        read_verified(store.storage, path, found.files)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Starts processes that have imported the store."""
    with forks_of(tmp_path_factory.mktemp("forks"), "common.checkpoint") as started:
        yield started


def test_killed_at_any_moment_it_leaves_a_whole_checkpoint(folder, forks):
    store, rng, last = CheckpointStore(LocalStorage(folder), keep=2), random.Random(1), 0
    for _ in range(10):
        pid = forks.begin(SAVE_ON_AND_ON, str(folder), str(last))
        wait_for(forks.out.read_text, poll_s=0.001)
        time.sleep(rng.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        assert forks.wait() == -signal.SIGKILL
        last = int(forks.out.read_text().split()[-1])
        found = store.newest()
        # The one that was written when it was killed is there or not; none before is missing.
        assert found.state["step"] in (last, last + 1)
        last = found.state["step"]
        for name in store.names():
            one = store.load(name)
            assert (one.tensors["learner"]["w"] == one.state["step"]).all()
            read_all(store, one)
    # The next run continues from there, whatever the killed ones left behind.
    store.save(last + 1, TENSORS, {"step": last + 1})
    assert store.newest().state == {"step": last + 1}
    assert sorted(folder.rglob(".*")) == []
    needed = {path for name in store.names() for path in store.load(name).files}
    assert set(store.storage.sizes()) - needed == {
        f"{name}/manifest.json" for name in store.names()
    }


DIE_AT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from common.checkpoint import CheckpointStore
from common.storage import LocalStorage

folder, method, moment = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = CheckpointStore(LocalStorage(folder), keep=1)
store.save(1, {"learner": {"w": np.arange(1000.0)}}, {"step": 1})
original, calls = getattr(LocalStorage, method), []

def die_at(self, *arguments):
    calls.append(arguments)
    if len(calls) > moment:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments)

setattr(LocalStorage, method, die_at)
store.save(2, {"learner": {"w": np.arange(1000.0)}}, {"step": 2})
"""


@pytest.mark.parametrize(
    ("method", "moment", "newest"),
    [
        ("write", 0, 1),
        ("write", 2, 1),
        ("remove", 0, 2),
        ("remove", 1, 2),
        ("remove_partial", 0, 2),
    ],
)
def test_killed_between_two_files_it_leaves_a_whole_checkpoint(
    folder, forks, method, moment, newest
):
    forks.begin(DIE_AT, str(folder), method, str(moment))
    assert forks.wait() == -signal.SIGKILL, forks.err.read_text()
    store = CheckpointStore(LocalStorage(folder), keep=1)
    tensors = {"learner": {"w": np.arange(1000.0)}}
    assert_holds(store.newest(), tensors, {"step": newest})
    for name in store.names():  # each remaining checkpoint is whole
        assert_holds(store.load(name), tensors, {"step": int(name[-1])})
    store.save(3, tensors, {"step": 3})
    assert store.names() == names(folder)
    assert len(store.names()) == 1


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

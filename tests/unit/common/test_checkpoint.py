"""Checkpoints: complete or not there, whoever is killed, whatever is damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from common import checkpoint
from common.checkpoint import CheckpointStore, entry_of, read_verified
from common.errors import CheckpointError, StorageError
from common.storage import LocalStorage, open_storage

TENSORS = {
    "learner": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(7)},
    "target": {"frames": np.arange(200, dtype=np.uint8), "empty": np.zeros((0, 4), np.int64)},
}
STATE = {"learner_steps": 12, "rng": [1, 2**63], "name": "ε"}
ROOT = Path(checkpoint.__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def store(folder):
    return CheckpointStore(LocalStorage(folder), keep=3)


def assert_holds(found, tensors, state):
    assert found.state == state
    assert set(found.tensors) == set(tensors)
    for group, arrays in tensors.items():
        assert set(found.tensors[group]) == set(arrays)
        for name, array in arrays.items():
            received = found.tensors[group][name]
            assert (received.dtype, received.shape) == (array.dtype, array.shape)
            assert np.array_equal(received, array)


def manifest_of(path):
    return json.loads((path / "manifest.json").read_bytes())


def rewrite(path, name, data):
    """Change a file and make the manifest agree, as an attacker would."""
    manifest = manifest_of(path)
    (path / name).write_bytes(data)
    manifest[f"{path.name}/{name}"] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def commit(store, step, written, shared=()):
    """A checkpoint whose shards wrote `written` (by name within it), and need `shared` frames."""
    name = store.new_name(step)
    files = {}
    for path, data in written.items():
        store.storage.write(f"{name}/{path}", data)
        files[f"{name}/{path}"] = entry_of(data)
    for path in shared:
        data = path.encode()
        if path not in store.storage.sizes():
            store.storage.write(path, data)
        files[path] = entry_of(data)
    store.commit(name, TENSORS, {"step": step}, files)
    return name


# --- whole ------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_bit_for_bit(store, folder):
    name = store.save(12, TENSORS, STATE)
    assert name == "000001-step-00000012"
    found = store.load(name)
    assert_holds(found, TENSORS, STATE)
    assert str(found) == f"{folder}/000001-step-00000012"
    assert_holds(store.newest(), TENSORS, STATE)


def test_it_is_the_same_in_an_object_store():
    store = CheckpointStore(open_storage("memory://test-checkpoint/run"), keep=2)
    for step in (1, 2, 3):
        commit(store, step, {"shard-0.rdqn": b"items"}, ["frames/0-0-000000.rdqn"])
    assert store.names() == ["000002-step-00000002", "000003-step-00000003"]
    found = store.newest()
    assert_holds(found, TENSORS, {"step": 3})
    data = read_verified(store.storage, "000003-step-00000003/shard-0.rdqn", found.files)
    assert data.tobytes() == b"items"


def test_arrays_that_are_not_contiguous_are_saved_as_they_look(store):
    array = np.arange(24.0).reshape(4, 6).T[::2]
    store.save(1, {"learner": {"a": array}}, {})
    assert np.array_equal(store.newest().tensors["learner"]["a"], array)


def test_nothing_is_created_before_the_first_save(store, folder):
    assert store.names() == []
    assert store.new_name(5) == "000001-step-00000005"
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        store.newest()
    assert not folder.exists()


def test_the_manifest_names_every_file_and_is_written_last(store, folder, monkeypatch):
    written = []
    write = LocalStorage.write
    monkeypatch.setattr(
        LocalStorage,
        "write",
        lambda self, name, data: (written.append(name), write(self, name, data)),
    )
    name = commit(store, 1, {"shard-0.rdqn": b"items"}, ["frames/0-0-000000.rdqn"])
    manifest = manifest_of(folder / name)
    assert written[-1] == f"{name}/manifest.json"
    assert set(manifest) == set(written[:-1])
    for path, entry in manifest.items():
        assert entry == entry_of((folder / path).read_bytes())


# --- which are there --------------------------------------------------------------------------


def test_the_last_k_are_kept_and_the_rest_is_gone(store, folder):
    for step in (5, 10, 15, 20, 25):
        store.save(step, TENSORS, {"step": step})
    kept = ["000003-step-00000015", "000004-step-00000020", "000005-step-00000025"]
    assert store.names() == names(folder) == kept
    assert [store.load(name).state["step"] for name in kept] == [15, 20, 25]
    assert store.newest().state == {"step": 25}


def test_the_newest_is_the_one_that_was_written_last_whatever_its_step(store):
    for step in (100_000_000, 7, 7):
        store.save(step, {}, {"step": step})
    assert store.newest().name == "000003-step-00000007"


def test_order_is_that_of_numbers_also_beyond_six_digits(store, folder):
    store.save(1, {}, {"which": "old"})
    (folder / "000001-step-00000001").rename(folder / "999999-step-00000001")
    manifest = folder / "999999-step-00000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("000001-step", "999999-step"))
    assert store.save(2, {}, {"which": "new"}) == "1000000-step-00000002"
    assert store.newest().state == {"which": "new"}
    assert store.names() == ["999999-step-00000001", "1000000-step-00000002"]


def test_no_number_is_given_twice_also_to_what_failed_or_is_half_there(store, folder):
    store.save(1, {}, {})
    given = [store.new_name(9) for _ in range(3)]
    assert [name[:6] for name in given] == ["000002", "000003", "000004"]
    LocalStorage(folder).write("000007-step-00000003/shard-0.rdqn", b"half a checkpoint")
    again = CheckpointStore(LocalStorage(folder), keep=3)
    assert again.new_name(3) == "000008-step-00000003"
    assert store.save(3, {}, {})[:6] == "000008"


def test_after_a_damaged_newest_the_next_is_the_newest(store, folder):
    store.save(1, TENSORS, {"step": 1})
    damaged = store.save(20, TENSORS, {"step": 20})
    (folder / damaged / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError):
        store.newest()
    # The run goes on from the first, whose step is lower.
    assert store.load("000001-step-00000001").state == {"step": 1}
    resumed = CheckpointStore(LocalStorage(folder), keep=3)
    assert resumed.save(5, TENSORS, {"step": 5}) == "000003-step-00000005"
    assert resumed.newest().state == {"step": 5}


def test_folders_of_other_names_or_without_a_manifest_are_no_checkpoints(store, folder):
    name = store.save(1, TENSORS, STATE)
    for other in ("step-00000002", "000002-step-00000003.tmp", "000009", "00003-step-00000001"):
        shutil.copytree(folder / name, folder / other)
    LocalStorage(folder).write("000005-step-00000003/learner.safetensors", b"half")
    assert store.names() == [name]
    assert_holds(store.newest(), TENSORS, STATE)
    for other in ("step-00000002", "000005-step-00000003", "frames", "..", "", "a/../b"):
        with pytest.raises(CheckpointError, match=r"not a checkpoint \(it has no manifest\.json\)"):
            store.load(other)


def test_reading_changes_nothing(store, folder):
    store.save(1, TENSORS, STATE)
    LocalStorage(folder).write("000002-step-00000002/state.json", b"{")
    (folder / "000002-step-00000002" / ".writing-1-shard-0.rdqn").write_bytes(b"half")
    before = sorted(folder.rglob("*"))
    assert_holds(store.newest(), TENSORS, STATE)
    assert sorted(folder.rglob("*")) == before


# --- frames that checkpoints share ------------------------------------------------------------


def test_shared_files_stay_as_long_as_a_checkpoint_needs_them(store, folder):
    for step in range(6):
        commit(
            store, step, {"shard-0.rdqn": b"x"}, [f"frames/0-0-{step + i:06d}.rdqn" for i in (0, 1)]
        )
        for name in store.names():
            assert all((folder / path).exists() for path in store.load(name).files)
    assert names(folder / "frames") == [f"0-0-{i:06d}.rdqn" for i in (3, 4, 5, 6)]


def test_tidying_takes_what_killed_writers_left_and_nothing_that_is_not_ours(store, folder):
    commit(store, 1, {}, ["frames/0-0-000000.rdqn"])
    storage = LocalStorage(folder)
    for name in ("000002-step-00000002/shard-0.rdqn", "frames/0-0-000009.rdqn"):
        storage.write(name, b"of a checkpoint that was never finished")
    for name in ("000002-step-00000002", "frames", "000003-step-00000003"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / ".writing-77-shard-1.rdqn").write_bytes(b"half")
    for name in ("notes.txt", "mine/model.safetensors", "000001-step-000.bak/x"):
        storage.write(name, b"the user's")
    commit(store, 4, {}, ["frames/0-0-000000.rdqn"])
    assert names(folder) == [
        "000001-step-000.bak",
        "000001-step-00000001",
        "000003-step-00000004",
        "frames",
        "mine",
        "notes.txt",
    ]
    assert names(folder / "frames") == ["0-0-000000.rdqn"]


def test_nothing_goes_while_what_a_kept_one_needs_is_not_known(store, folder):
    for step in range(3):
        commit(store, step, {}, [f"frames/0-0-{step:06d}.rdqn"])
    (folder / "000002-step-00000001" / "manifest.json").write_bytes(b"{")
    commit(store, 4, {}, [])
    assert len(names(folder / "frames")) == 3
    for step in range(5, 8):  # it is none of the last three now
        commit(store, step, {}, [])
    assert store.names() == [f"{i:06d}-step-{i:08d}" for i in (5, 6, 7)]
    assert not (folder / "frames").exists()


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
        assert "Input/output" in str(store.untidy)
    assert store.newest().state == {"step": 3}
    store.save(4, {}, {"step": 4})
    assert store.untidy is None
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
    with pytest.raises(OSError, match=rf"{path}: not visible from here.*reached by all nodes"):
        store.commit(name, TENSORS, {"step": 2}, {path: entry_of(b"yy")})
    assert store.names() == [whole]
    read_all(store, store.newest())
    assert names(tmp_path) == [whole, "frames"]


def test_nothing_goes_after_a_failure_while_somebody_may_write(store, folder):
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


def test_killed_at_any_moment_it_leaves_a_whole_checkpoint(folder):
    store, rng, last = CheckpointStore(LocalStorage(folder), keep=2), random.Random(1), 0
    for _ in range(10):
        script = [sys.executable, "-c", SAVE_ON_AND_ON, folder, str(last)]
        process = subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        reported = int(process.stdout.readline())
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].split()
        assert process.returncode == -signal.SIGKILL
        last = int(lines[-1]) if lines else reported
        found = store.newest()
        # The one that was written when it was killed is there or not; none before is missing.
        assert found.state["step"] in (last, last + 1)
        last = found.state["step"]
        for name in store.names():
            one = store.load(name)
            assert (one.tensors["learner"]["w"] == one.state["step"]).all()
            read_all(store, one)
    # And the next run goes on from there, whatever the killed ones left behind.
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
    [("write", 0, 1), ("write", 2, 1), ("remove", 0, 2), ("remove", 1, 2), ("sweep", 0, 2)],
)
def test_killed_between_two_files_it_leaves_a_whole_checkpoint(folder, method, moment, newest):
    script = [sys.executable, "-c", DIE_AT, folder, method, str(moment)]
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    store = CheckpointStore(LocalStorage(folder), keep=1)
    tensors = {"learner": {"w": np.arange(1000.0)}}
    assert_holds(store.newest(), tensors, {"step": newest})
    for name in store.names():  # none that is there is half gone
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


# --- damage -----------------------------------------------------------------------------------

OWN = ["learner.safetensors", "target.safetensors", "state.json"]


@pytest.fixture
def two(store, folder):
    """Two checkpoints with a shard and frames; the folder of the newest."""
    for step in (1, 2):
        name = commit(
            store, step, {"shard-0.rdqn": b"some items"}, [f"frames/0-0-00000{step}.rdqn"]
        )
    return folder / name


def path_of(two, file):
    return two / file if file != "frames" else two.parent / "frames" / "0-0-000002.rdqn"


@pytest.mark.parametrize("file", [*OWN, "shard-0.rdqn", "frames"])
@pytest.mark.parametrize("harm", ["cut", "longer", "gone"])
def test_a_file_that_is_cut_off_or_gone_is_named_with_the_way_out(store, two, file, harm):
    path = path_of(two, file)
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else data + b"x")
    said = "not there" if harm == "gone" else f"{path.stat().st_size} bytes of {len(data)}"
    with pytest.raises(CheckpointError) as caught:
        store.newest()
    assert str(caught.value) == (
        f"{path}: cut off, {said}; the one before it: --checkpoint 000001-step-00000001"
    )
    assert store.load("000001-step-00000001").state == {"step": 1}


@pytest.mark.parametrize("file", OWN)
@pytest.mark.parametrize("position", [0, -1, 40])
def test_one_changed_bit_is_found(store, two, file, position):
    data = bytearray((two / file).read_bytes())
    data[position % len(data)] ^= 1
    (two / file).write_bytes(data)
    with pytest.raises(
        CheckpointError, match=f"{file}: damaged.*--checkpoint 000001-step-00000001"
    ):
        store.newest()


@pytest.mark.parametrize("file", ["shard-0.rdqn", "frames"])
def test_one_changed_bit_of_replay_is_found_by_whoever_reads_it(store, two, file):
    path, found = path_of(two, file), store.newest()
    name = path.relative_to(two.parent).as_posix()
    data = bytearray(path.read_bytes())
    assert read_verified(store.storage, name, found.files).tobytes() == data
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"^{path}: damaged"):
        read_verified(store.storage, name, store.newest().files)
    path.write_bytes(data[:-2])
    with pytest.raises(CheckpointError, match=f"^{path}: cut off"):
        read_verified(store.storage, name, found.files)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"^{path}: cannot be read .No such file"):
        read_verified(store.storage, name, found.files)
    path.mkdir()
    with pytest.raises(CheckpointError, match=f"^{path}: cannot be read .is no regular file"):
        read_verified(store.storage, name, found.files)
    with pytest.raises(CheckpointError, match="is not in its checkpoint's manifest"):
        read_verified(store.storage, "frames/other.rdqn", found.files)


@pytest.fixture
def sharing(store):
    """Four checkpoints; all but the first need a segment of their own and one of the others'."""
    shared = ["frames/0-0-000001.rdqn"]
    commit(store, 0, {"shard-0.rdqn": b"x"}, ["frames/0-0-000000.rdqn"])
    for step in (1, 2):
        commit(store, step, {"shard-0.rdqn": b"x"}, [*shared, f"frames/0-0-00001{step}.rdqn"])
    return shared[0]


def test_the_way_out_does_not_need_the_file_that_is_bad(store, folder, sharing):
    oldest, before, newest = store.names()
    (folder / sharing).unlink()
    with pytest.raises(CheckpointError) as caught:
        store.newest()
    assert str(caught.value).endswith(f"; an older one is whole: --checkpoint {oldest}")
    # Whoever reads a shard finds it out for a file that is there.
    (folder / sharing).write_bytes(b"-" * len(sharing))
    with pytest.raises(CheckpointError) as caught:
        read_verified(store.storage, sharing, store.newest().files)
    there_and_back = pickle.loads(pickle.dumps(caught.value))  # between processes
    for error in (caught.value, there_and_back):
        said = str(store.with_way_out(error, newest))
        assert said == f"{error}; an older one is whole: --checkpoint {oldest}"
    # One that is bad in another way is no way out either.
    (folder / oldest / "state.json").write_bytes(b"")
    said = str(store.with_way_out(caught.value, newest))
    assert said.endswith("; to go on with an empty replay memory: --checkpoint.replay false")
    other = CheckpointError("x", f"{newest}/shard-0.rdqn")
    assert str(store.with_way_out(other, newest)) == f"x; the one before it: --checkpoint {before}"


def test_without_the_replay_memory_its_files_need_not_be_there(store, folder, sharing):
    newest = store.names()[-1]
    (folder / sharing).unlink()
    (folder / newest / "shard-0.rdqn").write_bytes(b"")
    found = CheckpointStore(LocalStorage(folder), 3, replay=False).newest()
    assert (found.name, found.replay) == (newest, False)
    assert_holds(found, TENSORS, {"step": 2})
    (folder / newest / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json: cut off, not there; the one before"):
        CheckpointStore(LocalStorage(folder), 3, replay=False).newest()


def test_one_that_is_whole_and_yet_none_of_ours_is_refused(folder):
    def check(found):
        if found.state != STATE:
            raise CheckpointError(f"{found}: none of ours")

    store = CheckpointStore(LocalStorage(folder), 3, check)
    store.save(1, TENSORS, STATE)
    assert_holds(store.newest(), TENSORS, STATE)
    store.save(2, TENSORS, {})
    with pytest.raises(CheckpointError, match="2: none of ours; the one before it: --checkpoint"):
        store.newest()


def test_an_empty_file_that_is_gone_is_missed(store, folder):
    name = commit(store, 1, {"shard-0.rdqn": b""}, [])
    assert store.newest().name == name
    (folder / name / "shard-0.rdqn").unlink()
    with pytest.raises(CheckpointError, match=r"shard-0\.rdqn: cut off, not there"):
        store.newest()


def test_of_a_damaged_first_one_there_is_no_way_out(store, folder):
    name = store.save(1, TENSORS, STATE)
    (folder / name / "state.json").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        store.newest()
    assert "--checkpoint" not in str(caught.value)
    error = CheckpointError("x")
    assert store.with_way_out(error, name) is error


def test_a_changed_manifest_is_refused_or_says_the_same(store, folder):
    name = store.save(1, TENSORS, STATE)
    path = folder / name / "manifest.json"
    manifest = path.read_bytes()
    refused = 0
    for position in range(len(manifest)):
        data = bytearray(manifest)
        data[position] ^= 1
        path.write_bytes(data)
        try:
            found = store.load(name)
        except CheckpointError:
            refused += 1
        else:
            assert_holds(found, TENSORS, STATE)
    assert refused > len(manifest) // 2


@pytest.mark.parametrize("cut", [0, 1, 50])
def test_a_cut_off_manifest_is_refused(store, two, cut):
    manifest = (two / "manifest.json").read_bytes()
    (two / "manifest.json").write_bytes(manifest[:cut])
    with pytest.raises(CheckpointError, match=r"manifest\.json: .*--checkpoint 000001"):
        store.newest()


# --- hostile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "3",
        "null",
        "{}",
        '{"000001-step-00000001/state.json": 3}',
        '{"000001-step-00000001/state.json": {}}',
        '{"000001-step-00000001/state.json": {"bytes": true, "sha256": ""}}',
        '{"000001-step-00000001/state.json": {"bytes": "9", "sha256": ""}}',
        '{"000001-step-00000001/state.json": {"bytes": 9.0, "sha256": ""}}',
        '{"000001-step-00000001/state.json": {"bytes": -1, "sha256": ""}}',
        '{"000001-step-00000001/state.json": {"bytes": 1e999, "sha256": ""}}',
        '{"000001-step-00000001/state.json": {"bytes": 2, "sha256": 5}}',
        '{"x": {"bytes": ' + "9" * 5000 + ', "sha256": ""}}',
        '{"a": ' + "[" * 100_000,
        '{"a": ' + '{"a": ' * 100_000,
        "\xff\xfe",
    ],
)
def test_a_manifest_of_another_shape_is_refused(store, folder, manifest):
    name = store.save(1, TENSORS, STATE)
    (folder / name / "manifest.json").write_text(manifest, "latin-1")
    with pytest.raises(CheckpointError) as caught:
        store.newest()
    assert len(str(caught.value).splitlines()) == 1
    # A run that goes on from another checkpoint is not kept from saving.
    store.save(2, TENSORS, STATE)
    assert_holds(store.newest(), TENSORS, STATE)


def test_a_huge_manifest_is_not_read(store, folder):
    name = store.save(1, TENSORS, STATE)
    os.truncate(folder / name / "manifest.json", checkpoint._MAX_MANIFEST_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"manifest\.json is too large"):
        store.newest()


@pytest.mark.parametrize(
    "outside", ["../secret.json", "absolute", "..", ".", "a/../../secret.json"]
)
def test_a_manifest_cannot_name_a_file_outside_its_storage(store, folder, outside):
    path = folder / store.save(1, TENSORS, STATE)
    data = b"{}"
    secret = folder.parent / "secret.json"
    secret.write_bytes(data)
    name = str(secret) if outside == "absolute" else outside
    manifest = {**manifest_of(path), name: entry_of(data)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json: names .*outside the checkpoints"):
        store.newest()
    CheckpointStore(LocalStorage(folder), keep=1).save(2, TENSORS, STATE)
    assert secret.exists(), "what a manifest names is not removed"


@pytest.mark.parametrize("state", ["[]", "3", "null", '"text"', "{", "[" * 100_000, "\xff"])
def test_a_state_that_is_no_object_is_refused(store, folder, state):
    path = folder / store.save(1, TENSORS, STATE)
    rewrite(path, "state.json", state.encode("latin-1"))
    with pytest.raises(CheckpointError, match="cannot be understood"):
        store.newest()


def header(**entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        (1 << 63).to_bytes(8, "little") + b"{}",
        header(w={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}),
        header(w={"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}) + b"1",
        header(w={"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}) + b"12",
        header(w={"dtype": "O", "shape": [1], "data_offsets": [0, 1]}) + b"1",
        header(w={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"1234",
    ],
)
def test_hostile_tensors_are_refused(store, folder, data):
    path = folder / store.save(1, TENSORS, STATE)
    rewrite(path, "learner.safetensors", data)
    with pytest.raises(CheckpointError, match="cannot be understood"):
        store.newest()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("file", ["learner.safetensors", "state.json", "extra.pkl"])
def test_a_pickle_in_a_checkpoint_is_never_run(store, folder, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = store.save(1, TENSORS, STATE)
    rewrite(folder / name, file, pickle.dumps(Bomb()))
    if file == "extra.pkl":
        store.load(name)
    else:
        with pytest.raises(CheckpointError, match="cannot be understood"):
            store.load(name)
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()  # it would have

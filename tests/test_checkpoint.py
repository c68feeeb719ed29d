import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from common import checkpoint
from common.checkpoint import (
    CheckpointError,
    CheckpointStore,
    load_checkpoint,
    write_atomically,
)

TENSORS = {
    "learner": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(7)},
    "replay": {"frames": np.arange(200, dtype=np.uint8), "empty": np.zeros((0, 4), np.int64)},
}
STATE = {"learner_steps": 12, "rng": [1, 2**63], "name": "ε"}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


def assert_holds(found, tensors, state):
    assert found.state == state
    assert set(found.tensors) == set(tensors)
    for group, arrays in tensors.items():
        assert set(found.tensors[group]) == set(arrays)
        for name, array in arrays.items():
            received = found.tensors[group][name]
            assert (received.dtype, received.shape) == (array.dtype, array.shape)
            assert np.array_equal(received, array)


def rewrite(path, name, data):
    """Change a file and make the manifest agree, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    (path / name).write_bytes(data)
    manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_was_saved_is_loaded_bit_for_bit(store):
    path = store.save(12, TENSORS, STATE)
    assert path.name == "step-00000012"
    assert_holds(load_checkpoint(path), TENSORS, STATE)
    assert_holds(store.newest(), TENSORS, STATE)


def test_arrays_that_are_not_contiguous_are_saved_as_they_look(store):
    array = np.arange(24.0).reshape(4, 6).T[::2]
    store.save(1, {"learner": {"a": array}}, {})
    assert np.array_equal(store.newest().tensors["learner"]["a"], array)


def test_nothing_is_created_before_the_first_save(store):
    assert store.paths() == []
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        store.newest()
    assert not store.folder.exists()


def test_the_last_k_are_kept_and_the_rest_is_gone(store):
    for step in (5, 10, 15, 20, 25):
        store.save(step, TENSORS, {"step": step})
    assert names(store.folder) == ["step-00000015", "step-00000020", "step-00000025"]
    assert [load_checkpoint(path).state["step"] for path in store.paths()] == [15, 20, 25]
    assert store.newest().state == {"step": 25}


def test_order_is_that_of_numbers_also_beyond_eight_digits(store):
    for step in (99_999_999, 100_000_000):
        store.save(step, {}, {"step": step})
    assert store.newest().state == {"step": 100_000_000}


def test_a_step_saved_again_is_replaced(store):
    store.save(3, TENSORS, {"try": 1})
    store.save(3, {"learner": {"w": np.zeros(1)}}, {"try": 2})
    assert_holds(store.newest(), {"learner": {"w": np.zeros(1)}}, {"try": 2})
    assert names(store.folder) == ["step-00000003"]


@pytest.mark.parametrize("failing_write", [0, 1, 2, 3])
def test_a_failing_write_leaves_the_earlier_checkpoint_and_no_litter(
    store, monkeypatch, failing_write
):
    store.save(1, TENSORS, STATE)
    writes = []
    write_synced = checkpoint.write_synced

    def fail_sometime(path, data):
        writes.append(path)
        if len(writes) > failing_write:
            write_synced(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device", str(path))
        write_synced(path, data)

    monkeypatch.setattr(checkpoint, "write_synced", fail_sometime)
    with pytest.raises(OSError, match="No space left"):
        store.save(2, TENSORS, {})
    assert names(store.folder) == ["step-00000001"]
    assert_holds(store.newest(), TENSORS, STATE)


def test_a_step_that_cannot_be_replaced_stays_as_it_was(store, monkeypatch):
    # It is the newest, perhaps the only one: it must not be gone before its successor is there.
    store.save(1, TENSORS, STATE)
    rename = Path.rename

    def fail_for_new(path, target):
        if path.name.startswith(".writing-"):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="Input/output"):
        store.save(1, TENSORS, {"try": 2})
    assert_holds(store.newest(), TENSORS, STATE)


SAVE_AND_DIE = """
import os, pathlib, signal, sys
import numpy as np
from common import checkpoint

folder, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
store = checkpoint.CheckpointStore(folder, keep=1)
tensors = {"learner": {"w": np.arange(1000.0)}}
store.save(1, tensors, {"step": 1})
write_synced, rmtree = checkpoint.write_synced, checkpoint.shutil.rmtree
rename = pathlib.Path.rename

def half_a_write(path, data):
    if path.name == moment:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        die()
    write_synced(path, data)

def rename_and_die(path, target):
    if moment == "before rename":
        die()
    renamed = rename(path, target)
    if moment == "after rename":
        die()
    return renamed

def rmtree_and_die(path, *args, **named):
    if moment == "before removal" and path.name.startswith(".writing-old-"):
        die()
    rmtree(path, *args, **named)

checkpoint.write_synced = half_a_write
pathlib.Path.rename = rename_and_die
checkpoint.shutil.rmtree = rmtree_and_die
store.save(2, tensors, {"step": 2})
"""


@pytest.mark.parametrize(
    ("moment", "newest"),
    [
        ("learner.safetensors", 1),
        ("state.json", 1),
        ("manifest.json", 1),
        ("before rename", 1),
        ("after rename", 2),
        ("before removal", 2),
        ("never", 2),
    ],
)
def test_killed_at_any_moment_it_leaves_a_whole_checkpoint(tmp_path, moment, newest):
    script = [sys.executable, "-c", SAVE_AND_DIE, str(tmp_path), moment]
    root = Path(checkpoint.__file__).parents[1]
    ended = subprocess.run(script, cwd=root, capture_output=True, timeout=60, check=False)
    expected = 0 if moment == "never" else -signal.SIGKILL
    assert ended.returncode == expected, ended.stderr.decode()
    store = CheckpointStore(tmp_path, keep=1)
    tensors = {"learner": {"w": np.arange(1000.0)}}
    assert_holds(store.newest(), tensors, {"step": newest})
    # And the next run goes on from there, whatever the killed one left behind.
    store.save(3, tensors, {"step": 3})
    assert_holds(store.newest(), tensors, {"step": 3})
    assert [path.name for path in store.paths()] == ["step-00000003"]


def test_reading_disturbs_no_writer(store):
    store.save(1, TENSORS, STATE)
    half = store.folder / ".writing-step-00000002"
    half.mkdir()
    (half / "state.json").write_text("{")
    before = names(store.folder)
    assert_holds(store.newest(), TENSORS, STATE)
    assert names(store.folder) == before
    assert names(half) == ["state.json"]


def test_what_a_killed_writer_had_set_aside_is_read_where_it_lies(store):
    # Killed between the two renames that replace a step.
    store.save(1, {}, {"step": 1})
    store.save(2, TENSORS, STATE).rename(store.folder / ".replaced-step-00000002")
    assert_holds(store.newest(), TENSORS, STATE)
    assert names(store.folder) == [".replaced-step-00000002", "step-00000001"]
    store.save(2, TENSORS, {"try": 2})
    assert_holds(store.newest(), TENSORS, {"try": 2})
    assert names(store.folder) == ["step-00000001", "step-00000002"]


def test_of_a_step_and_what_it_replaces_the_step_counts(store):
    store.save(2, TENSORS, {"try": 1}).rename(store.folder / ".replaced-step-00000002")
    aside = store.folder / ".replaced-step-00000002"
    other = CheckpointStore(store.folder.with_name("other"), keep=3)
    other.save(2, TENSORS, {"try": 2}).rename(store.folder / "step-00000002")
    assert aside.exists()
    assert store.newest().state == {"try": 2}
    assert [path.name for path in store.paths()] == ["step-00000002"]


@pytest.mark.parametrize("moved_on", ["replaced", "pruned"])
def test_a_writer_may_move_on_while_the_newest_is_read(store, monkeypatch, moved_on):
    store.save(1, TENSORS, {"try": 1})
    load, reads = checkpoint.load_checkpoint, []

    def overtaken_once(path):
        reads.append(path)
        if len(reads) == 1:
            keep = CheckpointStore(store.folder, keep=1)
            keep.save(1 if moved_on == "replaced" else 2, TENSORS, {"try": 2})
            raise CheckpointError(f"{path}: damaged, its checksum is another")
        return load(path)

    monkeypatch.setattr(checkpoint, "load_checkpoint", overtaken_once)
    assert store.newest().state == {"try": 2}
    assert len(reads) == 2


def test_half_written_folders_are_no_checkpoints(store):
    store.save(1, TENSORS, STATE)
    (store.folder / ".writing-abc").mkdir()
    (store.folder / "step-2").mkdir()
    (store.folder / "step-00000003.tmp").mkdir()
    assert names(store.folder) != ["step-00000001"]
    assert [path.name for path in store.paths()] == ["step-00000001"]


@pytest.mark.parametrize("name", ["learner.safetensors", "replay.safetensors", "state.json"])
def test_a_cut_off_file_is_named(store, name):
    path = store.save(1, TENSORS, STATE)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=f"{name}: cut off, {len(data) - 1} bytes of"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["learner.safetensors", "replay.safetensors", "state.json"])
@pytest.mark.parametrize("position", [0, -1, 40])
def test_one_changed_bit_is_found(store, name, position):
    path = store.save(1, TENSORS, STATE)
    data = bytearray((path / name).read_bytes())
    data[position] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name}: damaged"):
        load_checkpoint(path)


def test_a_changed_manifest_is_refused_or_says_the_same(store):
    path = store.save(1, TENSORS, STATE)
    manifest = (path / "manifest.json").read_bytes()
    refused = 0
    for position in range(len(manifest)):
        data = bytearray(manifest)
        data[position] ^= 1
        (path / "manifest.json").write_bytes(data)
        try:
            found = load_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:
            assert_holds(found, TENSORS, STATE)
    assert refused > len(manifest) // 2


@pytest.mark.parametrize("cut", [0, 1, 50])
def test_a_cut_off_manifest_is_refused(store, cut):
    path = store.save(1, TENSORS, STATE)
    manifest = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(manifest[:cut])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("manifest", [[], 3, None, {"state.json": 3}, {"state.json": {}}])
def test_a_manifest_of_another_shape_is_refused(store, manifest):
    path = store.save(1, TENSORS, STATE)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_missing_file_or_manifest_is_refused(store):
    path = store.save(1, TENSORS, STATE)
    (path / "learner.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"learner\.safetensors: cannot be read"):
        load_checkpoint(path)
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        load_checkpoint(path)


@pytest.mark.parametrize("outside", ["../secret.json", "sub/secret.json", "absolute", "..", "."])
def test_a_manifest_cannot_name_a_file_outside_its_folder(store, outside):
    path = store.save(1, TENSORS, STATE)
    data = b"{}"
    secret = store.folder / "secret.json"
    secret.write_bytes(data)
    (path / "sub").mkdir()
    (path / "sub" / "secret.json").write_bytes(data)
    name = str(secret) if outside == "absolute" else outside
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["learner.safetensors", "state.json", "extra.pkl"])
def test_a_pickle_in_a_checkpoint_is_never_run(store, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = store.save(1, TENSORS, STATE)
    rewrite(path, name, pickle.dumps(Bomb()))
    if name == "extra.pkl":
        load_checkpoint(path)
    else:
        with pytest.raises(CheckpointError, match="cannot be understood"):
            load_checkpoint(path)
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()  # it would have


@pytest.mark.parametrize("value", [np.array([{}], object), np.array(["text"])])
def test_objects_are_not_saved(store, value):
    store.save(1, TENSORS, STATE)
    with pytest.raises(SafetensorError, match="dtype"):
        store.save(2, {"learner": {"w": value}}, {})
    assert names(store.folder) == ["step-00000001"]


def test_a_state_that_json_cannot_hold_leaves_the_earlier_checkpoint(store):
    store.save(1, TENSORS, STATE)
    with pytest.raises(TypeError):
        store.save(2, TENSORS, {"x": object()})
    assert names(store.folder) == ["step-00000001"]


def test_of_a_damaged_newest_the_error_names_the_one_before(store):
    store.save(1, TENSORS, STATE)
    path = store.save(2, TENSORS, STATE)
    (path / "state.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cut off.*the one before it is .*step-00000001"):
        store.newest()


def test_writing_atomically_replaces_or_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "file.txt"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file.txt"]

    def fail(path, data):
        path.write_bytes(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"three")
    assert path.read_bytes() == b"two"

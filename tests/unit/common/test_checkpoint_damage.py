"""Damaged and hostile checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest

from common import checkpoint
from common.checkpoint import CheckpointStore, entry_of, read_verified
from common.errors import CheckpointError
from common.storage import LocalStorage
from support.checkpoints import STATE, TENSORS, assert_holds, commit, manifest_of


def rewrite(path, name, data):
    """Change a file and make the manifest agree, as an attacker would."""
    manifest = manifest_of(path)
    (path / name).write_bytes(data)
    manifest[f"{path.name}/{name}"] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


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
    said = "not there" if harm == "gone" else f"{path.stat().st_size:,} of {len(data):,} bytes"
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
def test_one_changed_bit_of_replay_is_found_by_each_reader(store, two, file):
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
    # A changed byte in a file shows when its shard is read.
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
    assert said.endswith("; to continue with an empty replay memory: --checkpoint.replay false")
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
    # A run that was resumed from another checkpoint can save.
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

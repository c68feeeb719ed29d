"""Checkpoints: whole or not there, which are kept, the files that they share."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from common.checkpoint import CheckpointStore, entry_of, read_verified
from common.errors import CheckpointError
from common.storage import LocalStorage, open_storage
from support.checkpoints import STATE, TENSORS, assert_holds, commit, manifest_of, names

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
    # The run is resumed from the first, whose step is lower.
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

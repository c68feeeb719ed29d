"""Helpers of the tests of checkpoints: contents, and ways to harm a file."""

from __future__ import annotations

import json

import numpy as np

from common.checkpoint import entry_of, read_verified

TENSORS = {
    "learner": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(7)},
    "target": {"frames": np.arange(200, dtype=np.uint8), "empty": np.zeros((0, 4), np.int64)},
}
STATE = {"learner_steps": 12, "rng": [1, 2**63], "name": "ε"}


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


def read_all(store, found):
    """Verify every file of a checkpoint."""
    for path in found.files:
        read_verified(store.storage, path, found.files)

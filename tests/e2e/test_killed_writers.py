"""Writers of files and of checkpoints that are killed at any moment: what is there is whole."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest

from common.checkpoint import CheckpointStore
from common.storage import LocalStorage
from support.checkpoints import TENSORS, assert_holds, names, read_all
from support.forks import forks_of
from support.program import wait_for
from support.storage_contract import content


def assert_whole(storage, last):
    """Each file has the content of that number, or of the next."""
    assert set(storage.sizes()) == {"a", "b/c"}
    for name in ("a", "b/c"):
        data = content(storage, name)
        assert data == data[:10] * 20_000
        assert last <= int(data[:10]) <= last + 1


WRITE_ON_AND_ON = """
import sys
from pathlib import Path
from common.storage import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    for name in ("a", "b/c"):
        storage.write(name, f"{number:010d}".encode() * 20_000)
    print(number, flush=True)
"""


def test_killed_at_any_moment_a_file_has_the_old_content_or_the_new(tmp_path):
    storage, rng = LocalStorage(tmp_path / "store"), random.Random(0)
    with forks_of(tmp_path, "common.storage") as forks:
        for _ in range(8):
            pid = forks.begin(WRITE_ON_AND_ON, str(tmp_path / "store"))
            wait_for(forks.out.read_text, poll_s=0.001)
            time.sleep(rng.random() * 0.03)
            os.kill(pid, signal.SIGKILL)
            assert forks.wait() == -signal.SIGKILL
            assert_whole(storage, int(forks.out.read_text().split()[-1]))


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


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


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

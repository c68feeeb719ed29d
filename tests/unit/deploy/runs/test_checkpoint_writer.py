"""When checkpoints are made, beside the run or not, and what belongs to one."""

from __future__ import annotations

import re
import threading
import time

import numpy as np
import pytest

from common import wire
from common.checkpoint import CheckpointStore
from common.config import CheckpointConfig
from common.errors import RemoteDiedError
from common.handles import InlineHandle
from common.storage import LocalStorage, open_storage
from deploy.runs.checkpoint_schema import learner_state, shard_restore
from deploy.runs.checkpoint_writer import CheckpointJob, CheckpointWriter
from replay_server.messages import encode_chunk
from replay_server.server import ReplayServer
from support.replay import PICTURE, random_chunk


class Learner:
    """Has a state, and can be held up in giving it."""

    def __init__(self, steps=70):
        self.steps = steps
        self.go_on = threading.Event()
        self.go_on.set()
        self.thread = None

    def state(self):
        self.thread = threading.current_thread()
        self.go_on.wait(10.0)
        tensors = {"policy.w": np.full(3, self.steps, np.float32)}
        return wire.encode(tensors, {"learner_steps": self.steps, "version": 9})


def make_shard(index, items=5, frames=6):
    shard = ReplayServer(64, PICTURE, 2, 0.6, 256, 1, index)
    shard.insert(encode_chunk(random_chunk(np.random.default_rng(index), items, frames)))
    return shard


def make_checkpointer(path, beside=False, **config):
    store = CheckpointStore(open_storage(str(path)), 3)
    return CheckpointWriter(store, CheckpointConfig(**config), beside)


def make_saving(learner, shards=(), transitions=0, **state):
    counters = {"learner_steps": 60, "env_steps": 8, "transitions": transitions}
    handles = [shard if hasattr(shard, "call") else InlineHandle(shard) for shard in shards]
    return CheckpointJob(
        {"counters": counters, **state}, InlineHandle(learner), handles, mark="mine"
    )


@pytest.mark.parametrize("beside", [False, True])
def test_it_is_due_after_so_many_steps_and_not_again_before_as_many(tmp_path, beside):
    checkpointer = make_checkpointer(tmp_path, beside, every_learner_steps=50, every_s=None)
    now = checkpointer.tried_s + 1e9
    assert [checkpointer.due(now, steps) for steps in (0, 49, 50, 51)] == [False, False, True, True]
    checkpointer.begin(make_saving(Learner()), 55)
    assert checkpointer.busy
    assert not checkpointer.due(now, 1_000), "one at a time"
    assert checkpointer.take(10.0) is not None
    assert [checkpointer.due(now, steps) for steps in (104, 105)] == [False, True]


def test_beside_the_run_the_clock_counts_if_anything_was_done(tmp_path):
    checkpointer = make_checkpointer(tmp_path, True, every_learner_steps=None, every_s=60.0)
    start = checkpointer.tried_s
    assert not checkpointer.due(start + 60.0, 0, 900), "what a run begins with was not done by it"
    assert not checkpointer.due(start + 59.9, 10, 1_000)
    assert checkpointer.due(start + 60.0, 1, 900)
    assert checkpointer.due(start + 60.0, 0, 901), "a memory that fills up is worth saving"
    checkpointer.begin(make_saving(Learner(0), transitions=1_000), 0)
    assert checkpointer.take(10.0) is not None
    later = checkpointer.tried_s + 60.0
    assert not checkpointer.due(later, 0, 1_000)
    assert checkpointer.due(later, 0, 1_001)


def test_in_one_process_only_learner_steps_count(tmp_path):
    checkpointer = make_checkpointer(tmp_path, False, every_learner_steps=50, every_s=0.001)
    assert not checkpointer.due(checkpointer.tried_s + 1e9, 0, 0)
    assert not checkpointer.due(checkpointer.tried_s + 1e9, 49, 1_000_000)
    assert checkpointer.due(checkpointer.tried_s, 50, 0)


def test_in_one_process_the_clock_says_nothing(tmp_path):
    checkpointer = make_checkpointer(tmp_path, False, every_learner_steps=None, every_s=0.001)
    assert not checkpointer.due(checkpointer.tried_s + 1e9, 1_000_000)


def test_in_one_process_it_is_written_when_begin_returns(tmp_path):
    checkpointer, learner = make_checkpointer(tmp_path), Learner()
    checkpointer.begin(make_saving(learner), 70)
    assert checkpointer.store.names() == ["000001-step-00000070"]
    assert learner.thread is threading.main_thread()
    saving = checkpointer.take()
    assert saving is not None
    assert (saving.error, saving.mark) == (None, "mine")
    assert saving.tensors["policy.w"].tolist() == [70] * 3
    assert saving.wall_s > 0
    assert not checkpointer.busy
    assert checkpointer.take() is None


def test_beside_the_run_it_is_written_in_a_thread_and_taken_when_it_is_done(tmp_path):
    checkpointer, learner = make_checkpointer(tmp_path, beside=True), Learner()
    learner.go_on.clear()
    checkpointer.begin(make_saving(learner, [make_shard(0)]), 70)
    assert checkpointer.take() is None
    assert checkpointer.take(0.05) is None
    assert checkpointer.busy
    assert checkpointer.store.names() == []
    learner.go_on.set()
    saving = checkpointer.take(10.0)
    assert saving is not None
    assert saving.error is None
    assert learner.thread is not threading.main_thread()
    assert checkpointer.store.names() == ["000001-step-00000070"]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), ZeroDivisionError("ours")], ids=str
)
def test_an_error_is_handed_back_and_the_next_one_works(tmp_path, monkeypatch, beside, error):
    checkpointer = make_checkpointer(tmp_path, beside)

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "commit", fail)
        checkpointer.begin(make_saving(Learner(70)), 70)
        assert checkpointer.take(10.0).error is error
    assert checkpointer.store.names() == []
    checkpointer.begin(make_saving(Learner(90)), 90)
    assert checkpointer.take(10.0).error is None
    assert [name[-2:] for name in checkpointer.store.names()] == ["90"]


@pytest.mark.parametrize("dead", ["learner", 0, 1])
def test_a_part_that_is_dead_makes_no_checkpoint(tmp_path, dead):
    checkpointer = make_checkpointer(tmp_path)
    saving = make_saving(Learner(), [make_shard(0), make_shard(1)])
    (saving.learner if dead == "learner" else saving.shards[dead]).end()
    checkpointer.begin(saving, 70)
    assert isinstance(checkpointer.take().error, RemoteDiedError)
    assert checkpointer.store.names() == []


@pytest.mark.parametrize("beside", [False, True])
def test_every_file_of_every_shard_is_in_the_manifest_and_restores_it(tmp_path, beside):
    shards = [make_shard(index, items=5 + index) for index in range(3)]
    checkpointer = make_checkpointer(tmp_path, beside)
    checkpointer.begin(make_saving(Learner(), shards), 70)
    assert checkpointer.take(10.0).error is None
    checkpoint = checkpointer.store.newest()
    name = checkpoint.name
    own = {path for path in checkpoint.files if path.startswith(f"{name}/shard-")}
    assert own == {f"{name}/shard-{index}.rdqn" for index in range(3)}
    on_disk = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert on_disk == checkpoint.files.keys()
    for path, entry in checkpoint.files.items():
        assert entry["bytes"] == (tmp_path / path).stat().st_size
    assert checkpoint.state["shards"] == 3
    for index, shard in enumerate(shards):
        origin = shard_restore(checkpoint, index, 3)
        again = ReplayServer(64, PICTURE, 2, 0.6, 256, 1, index, 1, origin=origin)
        again.check()
        assert again.summary().size == shard.summary().size == 5 + index
        assert again.summary().total == pytest.approx(shard.summary().total, rel=1e-12)


def test_without_replay_nothing_of_it_is_saved_and_shards_begin_empty(tmp_path):
    checkpointer = make_checkpointer(tmp_path)
    checkpointer.begin(make_saving(Learner()), 70)
    checkpoint = checkpointer.store.newest()
    assert {path.rpartition("/")[2] for path in checkpoint.files} == {
        "learner.safetensors",
        "state.json",
    }
    assert checkpoint.state["shards"] == 0
    assert shard_restore(checkpoint, 0, 4) is None


def test_the_learners_own_count_is_the_checkpoints(tmp_path):
    # It may be a call ahead of what was reported.
    checkpointer, learner = make_checkpointer(tmp_path), Learner(steps=80)
    checkpointer.begin(make_saving(learner, score=3.0), 60)
    checkpoint = checkpointer.store.newest()
    assert checkpoint.name.endswith("-step-00000080")
    wanted = {"learner_steps": 80, "env_steps": 8, "transitions": 0}
    assert checkpoint.state["counters"] == wanted
    assert checkpoint.state["score"] == 3.0
    assert np.array_equal(learner_state(checkpoint), learner.state())


# --- what hangs, and what is late -----------------------------------------------------------------


class Never:
    """An answer that does not come."""

    def done(self):
        return False

    def result(self):
        threading.Event().wait()


class Silent:
    """A handle that gives no answer to these methods."""

    def __init__(self, target, *methods):
        self.target, self.methods = InlineHandle(target), methods

    def call(self, method, *args):
        return Never() if method in self.methods else self.target.call(method, *args)


class HeldStorage:
    """Writing waits for `go_on` where the name holds `part`."""

    def __init__(self, monkeypatch, part):
        self.go_on, self.part = threading.Event(), part
        write, held = LocalStorage.write, self

        def slow(self, name, data):
            if held.part in name:
                assert held.go_on.wait(30)
            write(self, name, data)

        monkeypatch.setattr(LocalStorage, "write", slow)


def frames_in(path):
    return {file.name for file in path.glob("frames/*")}


def wait_until(condition):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < 20
        time.sleep(0.01)


@pytest.mark.parametrize("methods", [("state",), ("begin_save",), ("saved",)])
def test_a_part_without_an_answer_fails_the_checkpoint_in_time_and_not_the_next(tmp_path, methods):
    checkpointer = make_checkpointer(tmp_path, beside=True, timeout_s=0.3)
    learner, shard = Learner(), make_shard(0)
    silent = make_saving(learner, [Silent(shard, *methods)])
    if methods == ("state",):
        silent.learner = Silent(learner, "state")
    checkpointer.begin(silent, 70)
    who = "the learner" if methods == ("state",) else "shard-0"
    error = checkpointer.take(10.0).error
    assert isinstance(error, OSError)
    assert str(error) == (
        f"{tmp_path}: not written within checkpoint.timeout_s=0.3: {who} does not answer"
    )
    wait_until(lambda: shard._saver._thread is None or not shard._saver._thread.is_alive())
    checkpointer.begin(make_saving(learner, [shard]), 90)
    assert checkpointer.take(10.0).error is None


def test_a_storage_that_hangs_is_told_again_and_again_and_used_when_it_is_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("deploy.runs.checkpoint_writer.GRACE_S", 0.1)
    checkpointer = make_checkpointer(tmp_path, True, timeout_s=0.2, every_s=5.0)
    held = HeldStorage(monkeypatch, "learner")
    checkpointer.begin(make_saving(Learner()), 70)
    assert checkpointer.take(0.1) is None
    wait_until(lambda: time.monotonic() > checkpointer.tried_s + 0.35)
    saving = checkpointer.take()
    assert "timeout_s=0.2: the storage does not answer" in str(saving.error)
    assert not checkpointer.busy
    assert not checkpointer.due(checkpointer.tried_s + 4.9, 100), "when the next one is due"
    for _ in range(2):
        assert checkpointer.due(checkpointer.tried_s + 5.0, 100)
        checkpointer.begin(make_saving(Learner(100)), 100)
        assert not checkpointer.due(checkpointer.tried_s + 4.9, 200)
        assert re.search(r"one that began \d s ago hangs still", str(checkpointer.take().error))
        checkpointer.tried_s -= 5.0
        checkpointer.tried_steps -= 50
    late = checkpointer._late
    held.go_on.set()
    late.join(20)
    assert checkpointer.store.names() == ["000001-step-00000070"], "late, but whole"
    checkpointer.begin(make_saving(Learner(120)), 120)
    assert checkpointer.take(10.0).error is None
    assert len(checkpointer.store.names()) == 2


def test_without_a_timeout_it_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.runs.checkpoint_writer.GRACE_S", 0.0)
    checkpointer = make_checkpointer(tmp_path, True, timeout_s=None)
    held = HeldStorage(monkeypatch, "learner")
    checkpointer.begin(make_saving(Learner()), 70)
    assert checkpointer.take(0.3) is None
    held.go_on.set()
    assert checkpointer.take(10.0).error is None


def test_a_deadline_for_all_is_one_for_all(tmp_path, monkeypatch):
    checkpointer = make_checkpointer(tmp_path, True)
    held = HeldStorage(monkeypatch, "learner")
    checkpointer.begin(make_saving(Learner()), 70)
    begin = time.monotonic()
    checkpointer.end_by(begin + 0.3)
    for _ in range(3):
        assert checkpointer.take(20.0) is None
    assert 0.3 <= time.monotonic() - begin < 5.0
    held.go_on.set()
    checkpointer._thread.join(10.0)


def test_a_shard_that_is_at_the_one_before_is_waited_for_and_that_is_no_error(
    tmp_path, monkeypatch
):
    shards = [make_shard(0), make_shard(1)]
    checkpointer = make_checkpointer(tmp_path, beside=True)
    held = HeldStorage(monkeypatch, "shard-1")
    shards[1].begin_save(str(tmp_path), "000001-step-00000001/shard-1.rdqn", True)
    checkpointer.begin(make_saving(Learner(), shards), 70)
    assert checkpointer.take(0.3) is None
    held.go_on.set()
    assert checkpointer.take(10.0).error is None
    assert checkpointer.store.newest().state["shards"] == 2


def test_one_that_is_late_for_ever_fails_the_checkpoint_in_time(tmp_path, monkeypatch):
    shard, checkpointer = make_shard(0), make_checkpointer(tmp_path, beside=True, timeout_s=0.3)
    held = HeldStorage(monkeypatch, "shard-0")
    shard.begin_save(str(tmp_path), "000001-step-00000001/shard-0.rdqn", True)
    checkpointer.begin(make_saving(Learner(), [shard]), 70)
    assert str(checkpointer.take(10.0).error).endswith(": shard-0 is at the one before still")
    held.go_on.set()


def test_when_a_shard_dies_the_others_end_what_they_write(tmp_path, monkeypatch):
    shards = [make_shard(index, items=40, frames=70) for index in range(2)]
    saving = make_saving(Learner(), shards)
    saving.shards[0].end()
    held = HeldStorage(monkeypatch, "shard-1")
    checkpointer = make_checkpointer(tmp_path, beside=True)
    checkpointer.begin(saving, 70)
    assert checkpointer.take(0.3) is None, "its file would come after all had been removed"
    held.go_on.set()
    assert isinstance(checkpointer.take(10.0).error, RemoteDiedError)
    assert not list(tmp_path.glob("*-step-*"))
    # What the others wrote need not be written again.
    kept = frames_in(tmp_path)
    assert kept
    assert all(name.startswith("1-") for name in kept)
    before = {name: (tmp_path / "frames" / name).stat().st_mtime_ns for name in kept}
    checkpointer.begin(make_saving(Learner(), [make_shard(0), shards[1]]), 90)
    assert checkpointer.take(10.0).error is None
    for name, changed in before.items():
        assert (tmp_path / "frames" / name).stat().st_mtime_ns == changed


def test_frames_of_checkpoints_that_fail_again_and_again_do_not_pile_up(tmp_path, monkeypatch):
    shard, checkpointer = make_shard(0, items=40), make_checkpointer(tmp_path)
    rng, most = np.random.default_rng(3), 0

    write = LocalStorage.write

    def full(self, name, data):
        if "learner" in name:
            raise OSError(28, "No space left")
        write(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "write", full)
        for _ in range(12):
            for _ in range(4):
                shard.insert(encode_chunk(random_chunk(rng, 20, 20)))
            checkpointer.begin(make_saving(Learner(), [shard]), 70)
            assert "No space" in str(checkpointer.take().error)
            most = max(most, len(frames_in(tmp_path)))
    assert most <= 256 // shard._saver._length + 1, "the frames of one memory"
    checkpointer.begin(make_saving(Learner(), [shard]), 90)
    assert checkpointer.take().error is None
    needed = {name for name in checkpointer.store.newest().files if name.startswith("frames/")}
    assert {f"frames/{name}" for name in frames_in(tmp_path)} == needed


def test_what_could_not_be_removed_is_a_remark_and_no_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Access denied")

    checkpointer = make_checkpointer(tmp_path)
    monkeypatch.setattr(LocalStorage, "sweep", refuse)
    checkpointer.begin(make_saving(Learner()), 70)
    saving = checkpointer.take()
    assert saving.error is None
    assert saving.remark == "older checkpoints could not be removed: [Errno 13] Access denied"

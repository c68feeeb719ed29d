"""When checkpoints are written, in the background or not, and the files that belong to one."""

from __future__ import annotations

import platform
import re
import threading
import time

import numpy as np
import psutil
import pytest

from common import wire
from common.checkpoint import CheckpointStore
from common.config_operation import CheckpointConfig
from common.errors import RemoteDiedError
from common.handles import InlineHandle
from common.item import transition_item
from common.storage import LocalStorage, open_storage
from deploy.runs.checkpoint_schema import learner_state, shard_restore
from deploy.runs.checkpoint_writer import CheckpointJob, CheckpointWriter
from replay_server.messages import encode_chunk
from replay_server.server import ReplayServer
from support.replay import PICTURE, random_chunk
from support.run_states import make_state


class Learner:
    """A learner whose `state` can be delayed."""

    def __init__(self, steps=70):
        self.steps = steps
        self.go_on = threading.Event()
        self.go_on.set()
        self.thread = None

    def state(self):
        self.thread = threading.current_thread()
        self.go_on.wait(10.0)
        tensors = {"policy.w": np.full(3, self.steps, np.float32)}
        return wire.encode(tensors, {"learner_steps": self.steps, "version": 9, "target_syncs": 2})


def make_shard(index, items=5, frames=6):
    shard = ReplayServer(64, PICTURE, transition_item(2), 0.6, 256, 1, index)
    shard.insert(encode_chunk(random_chunk(np.random.default_rng(index), items, frames)))
    return shard


def make_writer(path, background=False, **config):
    store = CheckpointStore(open_storage(str(path)), 3)
    return CheckpointWriter(store, CheckpointConfig(**config), background)


def make_job(learner, shards=(), transitions=0, **state):
    counters = {"learner_steps": 60, "env_steps": 8, "transitions": transitions}
    state = {**make_state(), "counters": counters, **state}
    handles = [shard if hasattr(shard, "call") else InlineHandle(shard) for shard in shards]
    return CheckpointJob(
        {"counters": counters, **state}, InlineHandle(learner), handles, progress="mine"
    )


@pytest.mark.parametrize("background", [False, True])
def test_it_is_due_after_so_many_steps_and_not_again_before_as_many(tmp_path, background):
    writer = make_writer(tmp_path, background, every_learner_steps=50, every_s=None)
    now = writer.tried_s + 1e9
    assert [writer.due(now, steps) for steps in (0, 49, 50, 51)] == [False, False, True, True]
    writer.begin(make_job(Learner()), 55)
    assert writer.busy
    assert not writer.due(now, 1_000), "one at a time"
    assert writer.take(10.0) is not None
    assert [writer.due(now, steps) for steps in (104, 105)] == [False, True]


def test_in_the_background_the_clock_counts_if_there_is_progress(tmp_path):
    writer = make_writer(tmp_path, True, every_learner_steps=None, every_s=60.0)
    start = writer.tried_s
    assert not writer.due(start + 60.0, 0, 900), "a resumed run has no progress of its own yet"
    assert not writer.due(start + 59.9, 10, 1_000)
    assert writer.due(start + 60.0, 1, 900)
    assert writer.due(start + 60.0, 0, 901), "a memory that fills up is worth saving"
    writer.begin(make_job(Learner(0), transitions=1_000), 0)
    assert writer.take(10.0) is not None
    later = writer.tried_s + 60.0
    assert not writer.due(later, 0, 1_000)
    assert writer.due(later, 0, 1_001)


def test_in_one_process_only_learner_steps_count(tmp_path):
    writer = make_writer(tmp_path, False, every_learner_steps=50, every_s=0.001)
    assert not writer.due(writer.tried_s + 1e9, 0, 0)
    assert not writer.due(writer.tried_s + 1e9, 49, 1_000_000)
    assert writer.due(writer.tried_s, 50, 0)


def test_in_one_process_the_clock_is_ignored(tmp_path):
    writer = make_writer(tmp_path, False, every_learner_steps=None, every_s=0.001)
    assert not writer.due(writer.tried_s + 1e9, 1_000_000)


def test_in_one_process_it_is_written_when_begin_returns(tmp_path):
    writer, learner = make_writer(tmp_path), Learner()
    writer.begin(make_job(learner), 70)
    assert writer.store.names() == ["000001-step-00000070"]
    assert learner.thread is threading.main_thread()
    job = writer.take()
    assert job is not None
    assert (job.error, job.progress) == (None, "mine")
    assert job.tensors["policy.w"].tolist() == [70] * 3
    assert job.wall_s > 0
    assert not writer.busy
    assert writer.take() is None


def test_in_the_background_a_thread_writes_it_and_take_returns_it_when_it_is_done(tmp_path):
    writer, learner = make_writer(tmp_path, background=True), Learner()
    learner.go_on.clear()
    writer.begin(make_job(learner, [make_shard(0)]), 70)
    assert writer.take() is None
    assert writer.take(0.05) is None
    assert writer.busy
    assert writer.store.names() == []
    learner.go_on.set()
    job = writer.take(10.0)
    assert job is not None
    assert job.error is None
    assert learner.thread is not threading.main_thread()
    assert writer.store.names() == ["000001-step-00000070"]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), ZeroDivisionError("ours")], ids=str
)
def test_an_error_is_handed_back_and_the_next_one_works(tmp_path, monkeypatch, background, error):
    writer = make_writer(tmp_path, background)

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "commit", fail)
        writer.begin(make_job(Learner(70)), 70)
        assert writer.take(10.0).error is error
    assert writer.store.names() == []
    writer.begin(make_job(Learner(90)), 90)
    assert writer.take(10.0).error is None
    assert [name[-2:] for name in writer.store.names()] == ["90"]


@pytest.mark.parametrize("dead", ["learner", 0, 1])
def test_a_part_that_is_dead_makes_no_checkpoint(tmp_path, dead):
    writer = make_writer(tmp_path)
    job = make_job(Learner(), [make_shard(0), make_shard(1)])
    (job.learner if dead == "learner" else job.shards[dead]).end()
    writer.begin(job, 70)
    assert isinstance(writer.take().error, RemoteDiedError)
    assert writer.store.names() == []


@pytest.mark.parametrize("background", [False, True])
def test_every_file_of_every_shard_is_in_the_manifest_and_restores_it(tmp_path, background):
    shards = [make_shard(index, items=5 + index) for index in range(3)]
    writer = make_writer(tmp_path, background)
    writer.begin(make_job(Learner(), shards), 70)
    assert writer.take(10.0).error is None
    checkpoint = writer.store.newest()
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
        again = ReplayServer(64, PICTURE, transition_item(2), 0.6, 256, 1, index, 1, restore=origin)
        again.check()
        assert again.summary().size == shard.summary().size == 5 + index
        assert again.summary().total == pytest.approx(shard.summary().total, rel=1e-12)


def test_without_replay_nothing_of_it_is_saved_and_shards_begin_empty(tmp_path):
    writer = make_writer(tmp_path)
    writer.begin(make_job(Learner()), 70)
    checkpoint = writer.store.newest()
    assert {path.rpartition("/")[2] for path in checkpoint.files} == {
        "learner.safetensors",
        "state.json",
    }
    assert checkpoint.state["shards"] == 0
    assert shard_restore(checkpoint, 0, 4) is None


def test_the_learners_own_count_is_the_checkpoints(tmp_path):
    # The learner may be a call ahead of its last report.
    writer, learner = make_writer(tmp_path), Learner(steps=80)
    writer.begin(make_job(learner, score=3.0), 60)
    checkpoint = writer.store.newest()
    assert checkpoint.name.endswith("-step-00000080")
    wanted = {"learner_steps": 80, "env_steps": 8, "transitions": 0}
    assert checkpoint.state["counters"] == wanted
    assert checkpoint.state["score"] == 3.0
    assert np.array_equal(learner_state(checkpoint), learner.state())


# --- hanging parts and storage -------------------------------------------------------------------


class Never:
    """A result that never comes."""

    def done(self):
        return False

    def result(self):
        threading.Event().wait()


class Silent:
    """A handle whose calls of these methods never return."""

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
def test_a_part_that_times_out_fails_the_checkpoint_in_time_and_not_the_next(tmp_path, methods):
    writer = make_writer(tmp_path, background=True, timeout_s=0.3)
    learner, shard = Learner(), make_shard(0)
    silent = make_job(learner, [Silent(shard, *methods)])
    if methods == ("state",):
        silent.learner = Silent(learner, "state")
    writer.begin(silent, 70)
    who = "the learner" if methods == ("state",) else "shard-0"
    error = writer.take(10.0).error
    assert isinstance(error, OSError)
    assert str(error) == (
        f"{tmp_path}: not written within checkpoint.timeout_s=0.3: {who} timed out"
    )
    wait_until(lambda: shard._saver._thread is None or not shard._saver._thread.is_alive())
    writer.begin(make_job(learner, [shard]), 90)
    assert writer.take(10.0).error is None


def test_a_hanging_storage_is_reported_each_time_and_used_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.runs.checkpoint_writer.GRACE_S", 0.1)
    writer = make_writer(tmp_path, True, timeout_s=0.2, every_s=5.0)
    held = HeldStorage(monkeypatch, "learner")
    writer.begin(make_job(Learner()), 70)
    assert writer.take(0.1) is None
    wait_until(lambda: time.monotonic() > writer.tried_s + 0.35)
    job = writer.take()
    assert "timeout_s=0.2: the storage timed out" in str(job.error)
    assert not writer.busy
    assert not writer.due(writer.tried_s + 4.9, 100), "when the next one is due"
    for _ in range(2):
        assert writer.due(writer.tried_s + 5.0, 100)
        writer.begin(make_job(Learner(100)), 100)
        assert not writer.due(writer.tried_s + 4.9, 200)
        assert re.search(r"a job that began \d s ago still hangs", str(writer.take().error))
        writer.tried_s -= 5.0
        writer.tried_steps -= 50
    late = writer._late
    held.go_on.set()
    late.join(20)
    assert writer.store.names() == ["000001-step-00000070"], "late, but whole"
    writer.begin(make_job(Learner(120)), 120)
    assert writer.take(10.0).error is None
    assert len(writer.store.names()) == 2


def test_without_a_timeout_it_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.runs.checkpoint_writer.GRACE_S", 0.0)
    writer = make_writer(tmp_path, True, timeout_s=None)
    held = HeldStorage(monkeypatch, "learner")
    writer.begin(make_job(Learner()), 70)
    assert writer.take(0.3) is None
    held.go_on.set()
    assert writer.take(10.0).error is None


def test_a_deadline_for_all_is_one_for_all(tmp_path, monkeypatch):
    writer = make_writer(tmp_path, True)
    held = HeldStorage(monkeypatch, "learner")
    writer.begin(make_job(Learner()), 70)
    begin = time.monotonic()
    writer.end_by(begin + 0.3)
    for _ in range(3):
        assert writer.take(20.0) is None
    assert 0.3 <= time.monotonic() - begin < 5.0
    held.go_on.set()
    writer._thread.join(10.0)


def test_a_shard_that_still_writes_the_previous_one_is_waited_for(tmp_path, monkeypatch):
    shards = [make_shard(0), make_shard(1)]
    writer = make_writer(tmp_path, background=True)
    held = HeldStorage(monkeypatch, "shard-1")
    shards[1].begin_save(str(tmp_path), "000001-step-00000001/shard-1.rdqn", True)
    writer.begin(make_job(Learner(), shards), 70)
    assert writer.take(0.3) is None
    held.go_on.set()
    assert writer.take(10.0).error is None
    assert writer.store.newest().state["shards"] == 2


def test_a_shard_that_never_finishes_the_previous_one_fails_it_in_time(tmp_path, monkeypatch):
    shard, writer = make_shard(0), make_writer(tmp_path, background=True, timeout_s=0.3)
    held = HeldStorage(monkeypatch, "shard-0")
    shard.begin_save(str(tmp_path), "000001-step-00000001/shard-0.rdqn", True)
    writer.begin(make_job(Learner(), [shard]), 70)
    assert str(writer.take(10.0).error).endswith(": shard-0 is still writing the previous one")
    held.go_on.set()


def test_when_a_shard_dies_the_others_finish_writing(tmp_path, monkeypatch):
    shards = [make_shard(index, items=40, frames=70) for index in range(2)]
    job = make_job(Learner(), shards)
    job.shards[0].end()
    held = HeldStorage(monkeypatch, "shard-1")
    writer = make_writer(tmp_path, background=True)
    writer.begin(job, 70)
    assert writer.take(0.3) is None, "its file would come after all had been removed"
    held.go_on.set()
    assert isinstance(writer.take(10.0).error, RemoteDiedError)
    assert not list(tmp_path.glob("*-step-*"))
    # The other shards need not write their frames again.
    kept = frames_in(tmp_path)
    assert kept
    assert all(name.startswith("1-") for name in kept)
    before = {name: (tmp_path / "frames" / name).stat().st_mtime_ns for name in kept}
    writer.begin(make_job(Learner(), [make_shard(0), shards[1]]), 90)
    assert writer.take(10.0).error is None
    for name, changed in before.items():
        assert (tmp_path / "frames" / name).stat().st_mtime_ns == changed


def test_frames_of_checkpoints_that_fail_again_and_again_do_not_pile_up(tmp_path, monkeypatch):
    shard, writer = make_shard(0, items=40), make_writer(tmp_path)
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
            writer.begin(make_job(Learner(), [shard]), 70)
            assert "No space" in str(writer.take().error)
            most = max(most, len(frames_in(tmp_path)))
    assert most <= 256 // shard._saver._length + 1, "the frames of one memory"
    writer.begin(make_job(Learner(), [shard]), 90)
    assert writer.take().error is None
    needed = {name for name in writer.store.newest().files if name.startswith("frames/")}
    assert {f"frames/{name}" for name in frames_in(tmp_path)} == needed


def test_a_failed_removal_of_old_checkpoints_is_a_remark_and_no_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Access denied")

    writer = make_writer(tmp_path)
    monkeypatch.setattr(LocalStorage, "remove_partial", refuse)
    writer.begin(make_job(Learner()), 70)
    job = writer.take()
    assert job.error is None
    assert job.remark == "older checkpoints could not be removed: [Errno 13] Access denied"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library may keep blocks")
def test_a_background_job_gives_back_what_earlier_jobs_have_freed(tmp_path):
    writer = make_writer(tmp_path, background=True)
    kept = []

    def leave_free_blocks():
        blocks = [b"1" * (100_000 + n) for n in range(200)]  # too small for a mapping of their own
        kept.append(bytes(100_000))  # above them
        del blocks

    thread = threading.Thread(target=leave_free_blocks)
    thread.start()
    thread.join()
    before = psutil.Process().memory_info().rss
    writer.begin(make_job(Learner()), 70)
    assert writer.take(10.0).error is None
    assert before - psutil.Process().memory_info().rss > 10_000_000

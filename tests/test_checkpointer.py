"""When checkpoints are made, beside the run or not, and what belongs to one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from replay_helpers import PICTURE, random_chunk

from common import wire
from common.checkpoint import CheckpointStore
from common.config import CheckpointConfig
from common.handles import InlineHandle, RemoteDiedError
from common.storage import open_storage
from deploy.checkpointer import Checkpointer, Saving, learner_state, shard_origin
from replay_server.messages import encode_chunk
from replay_server.server import ReplayServer


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


def make_shard(index, items=5):
    shard = ReplayServer(64, PICTURE, 2, 0.6, 256, 1, index)
    shard.insert(encode_chunk(random_chunk(np.random.default_rng(index), items, 6)))
    return shard


def make_checkpointer(path, beside=False, **config):
    store = CheckpointStore(open_storage(str(path)), 3)
    return Checkpointer(store, CheckpointConfig(**config), beside)


def make_saving(learner, shards=(), **state):
    counters = {"learner_steps": 60, "env_steps": 8}
    handles = [InlineHandle(shard) for shard in shards]
    return Saving({"counters": counters, **state}, InlineHandle(learner), handles, mark="mine")


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


def test_beside_the_run_the_clock_counts_too_if_anything_was_learnt(tmp_path):
    checkpointer = make_checkpointer(tmp_path, True, every_learner_steps=None, every_s=60.0)
    start = checkpointer.tried_s
    assert not checkpointer.due(start + 59.9, 10)
    assert checkpointer.due(start + 60.0, 1)
    assert not checkpointer.due(start + 60.0, 0)


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
        origin = shard_origin(checkpoint, index, 3)
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
    assert shard_origin(checkpoint, 0, 4) is None


def test_the_learners_own_count_is_the_checkpoints(tmp_path):
    # It may be a call ahead of what was reported.
    checkpointer, learner = make_checkpointer(tmp_path), Learner(steps=80)
    checkpointer.begin(make_saving(learner, score=3.0), 60)
    checkpoint = checkpointer.store.newest()
    assert checkpoint.name.endswith("-step-00000080")
    assert checkpoint.state["counters"] == {"learner_steps": 80, "env_steps": 8}
    assert checkpoint.state["score"] == 3.0
    assert np.array_equal(learner_state(checkpoint), learner.state())

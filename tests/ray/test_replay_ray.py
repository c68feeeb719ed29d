"""The memory in processes of its own: four shards, writers, a sampler, all at once."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from common import parts
from common.errors import RemoteDiedError
from common.item import transition_item
from common.types import Chunk, FrameSpec
from deploy.runtime.local_ray import local_ray
from replay_server.codec import make_codec
from replay_server.messages import decode_sample
from replay_server.sampler import ReplaySampler
from replay_server.server import ReplayServer
from replay_server.shard_restore import ShardRestore
from replay_server.writer import ReplayWriter
from support.object_store import object_store
from support.paths import TESTS, import_path
from support.replay import random_chunk

SHARDS, WRITERS, STACK = 4, 3, 2
FRAME = FrameSpec((1, 8, 8), "uint8", 1 / 255)
CAPACITY = 700  # of each shard: far less than what is written


def name_of(writer: int, step: int) -> int:
    return (writer * 83 + step * 7) % 251


class Writing:
    """Writes chunks whose frames tell who wrote them and when."""

    def __init__(self, shards: list, index: int, kind: str) -> None:
        codec = make_codec(kind, FRAME)
        self._writer = ReplayWriter(shards, max_in_flight=3, stream=index, codec=codec)
        self._rng = np.random.default_rng(index)
        self._index, self._step, self._held = index, 0, 0

    def write(self, seconds: float) -> tuple[int, int]:
        """(transitions sent, transitions known to be stored)."""
        sent, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            sent += self._write_one()
        self._writer.flush()
        return sent, self._writer.take_accepted()

    def _write_one(self) -> int:
        # Frames step … step + count of this writer; transition i is made of frames i, i + 1 and
        # then i + 1, i + 2. The two that the next chunk needs too travel once.
        count = int(self._rng.integers(1, 60))
        continues = self._writer.continues
        begin = self._step + (2 if continues else 0)
        steps = np.arange(begin, self._step + count + 2)
        frames = np.zeros((len(steps), *FRAME.shape), np.uint8)
        frames[:] = np.array([name_of(self._index, s) for s in steps])[:, None, None, None]
        start = np.arange(count)[:, None] + np.arange(STACK)
        held = np.arange(self._held - 2, self._held) if continues else []
        chunk = random_chunk(self._rng, count, 0, STACK, FRAME)
        self._writer.write(
            Chunk(
                frames=frames,
                columns={
                    **chunk.columns,
                    "observation": start.astype(np.int32),
                    "next_observation": (start + 1).astype(np.int32),
                    "action": (self._step + np.arange(count)).astype(np.int32),
                    "reward": np.full(count, self._index, np.float32),
                },
                priority=chunk.priority,
                reused=np.array(held, np.int32),
            )
        )
        self._step, self._held = self._step + count, count + 2
        return count


@pytest.fixture(scope="module")
def store_url():
    """Of an object store that remotes reach, too: they inherit the environment."""
    with object_store("shards") as url:
        yield url


@pytest.fixture(scope="module")
def runtime(store_url):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", import_path(TESTS / "ray"))  # remotes import from here
        with local_ray(256 * 2**20) as runtime:
            yield runtime


def spawn_shards(runtime, kind):
    arguments = (CAPACITY, FRAME, transition_item(STACK), 0.6, 2 * CAPACITY, 1)
    return [
        runtime.spawn(
            ReplayServer, *arguments, shard, 0, kind, part=parts.shard(shard), incarnation=0
        )
        for shard in range(SHARDS)
    ]


@pytest.mark.parametrize("kind", ["none", "lz4"])
def test_four_shards_at_once_lose_nothing_and_mix_up_nothing(runtime, kind):
    shards = spawn_shards(runtime, kind)
    writers = [
        runtime.spawn(Writing, shards, i, kind, part=parts.actor(i), incarnation=0)
        for i in range(WRITERS)
    ]
    sampler = ReplaySampler(shards, 64, 2, 2, 0.4, np.random.default_rng(0))
    rng = np.random.default_rng(5)
    for writer in writers:
        writer.call("write", 0.2).result()
    counted = [shard.call("summary").result().inserted for shard in shards]
    assert all(counted)
    writing = [writer.call("write", 1.5) for writer in writers]
    drawn = rounds = 0
    pending = []
    while not all(future.done() for future in writing):
        round_ = sampler.next_group()
        rounds += 1
        for sample in round_.samples:
            drawn += len(sample)
            frames = sample.frames[:, 0, 0, 0]
            steps = sample["action"][:, None] + np.arange(STACK)
            stacks = (
                (sample["observation"], steps),
                (sample["next_observation"], steps + 1),
            )
            for numbers, first in stacks:
                expected = (sample["reward"][:, None].astype(int) * 83 + first * 7) % 251
                assert np.array_equal(frames[numbers], expected), "frames of another transition"
            assert (sample.frames == sample.frames[:, :1, :1, :1]).all()
        pending.append(round_)
        if len(pending) > int(rng.integers(0, 40)):  # some priorities come very late
            late = pending.pop(int(rng.integers(len(pending))))
            sampler.update_priorities(late, rng.random(late.rows.shape) * 3)
    results = [future.result() for future in writing]
    for round_ in pending:
        sampler.update_priorities(round_, rng.random(round_.rows.shape))
    summaries = [shard.call("summary").result() for shard in shards]
    for shard in shards:
        shard.call("check").result()
    assert rounds > 5
    sent = sum(sent for sent, _ in results)
    stored, orphaned = sum(stored for _, stored in results), sum(s.orphaned for s in summaries)
    assert sum(s.inserted for s in summaries) - sum(counted) == stored
    # A writer that the system lets wait while the others write the whole of such a small ring
    # finds its last frames gone: refused as a whole, counted, and begun anew.
    assert stored + orphaned == sent
    assert orphaned < 0.02 * sent
    assert [s.inserted for s in summaries] == [s.size + s.evicted for s in summaries]
    assert all(s.size <= CAPACITY for s in summaries)
    assert sum(s.evicted for s in summaries) > 2 * CAPACITY
    assert sum(s.sampled for s in summaries) >= drawn
    assert sum(s.stale for s in summaries) > 0, "no priority came late: the test is too tame"
    assert not any(s.refused for s in summaries)
    for handle in (*shards, *writers):
        runtime.kill(handle)


def test_a_shard_restarted_empty_gets_whole_chunks(runtime):
    arguments = (CAPACITY, FRAME, transition_item(STACK), 0.6, 2 * CAPACITY, 1)
    shard = runtime.spawn(ReplayServer, *arguments, 0, 0, part=parts.shard(0), incarnation=0)
    other = runtime.spawn(ReplayServer, *arguments, 0, 1, part=parts.shard(0), incarnation=1)
    writer = ReplayWriter([shard], 1)
    chunk = random_chunk(np.random.default_rng(0), 4, 6, STACK, FRAME)
    writer.write(chunk)
    writer.flush()
    assert writer.continues
    writer._shards = [other]  # the same shard in its next life: it knows none of the frames
    writer.write(Chunk(**{**fields_of(chunk), "reused": np.array([4, 5], np.int32)}))
    writer.flush()
    assert (writer.accepted, writer.orphaned, writer.continues) == (4, 4, False)
    writer.write(chunk)
    writer.flush()
    assert writer.accepted == 8
    assert other.call("summary").result().orphaned == 4
    for handle in (shard, other):
        runtime.kill(handle)


def fields_of(chunk: Chunk) -> dict:
    return {name: getattr(chunk, name) for name in Chunk.__dataclass_fields__}


def test_a_shard_whose_process_is_killed_restarts_from_its_checkpoint_and_refuses_late_keys(
    runtime, store_url
):
    """Both processes reach the checkpoint in an object store by themselves."""

    def spawn(incarnation, restore=None):
        arguments = (CAPACITY, FRAME, transition_item(STACK), 0.6, 4 * CAPACITY, 0, 0, incarnation)
        return runtime.spawn(
            ReplayServer,
            *arguments,
            "none",
            None,
            restore,
            part=parts.shard(0),
            incarnation=incarnation,
        )

    shard, rng = spawn(0), np.random.default_rng(0)
    writer = ReplayWriter([shard], max_in_flight=3)
    for _ in range(30):
        writer.write(random_chunk(rng, 20, 21, STACK, FRAME))
    writer.flush()
    keys = decode_sample(shard.call("sample", 16).result()).key
    name = "000001-step-00000001/shard-0.rdqn"
    shard.call("begin_save", store_url, name, True).result()
    deadline = time.monotonic() + 60
    while (files := shard.call("saved").result()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    saved = shard.call("summary").result()
    writer.write(random_chunk(rng, 20, 21, STACK, FRAME))  # what comes after is lost
    writer.flush()
    os.kill(runtime.ping(shard).result().pid, signal.SIGKILL)
    with pytest.raises(RemoteDiedError):
        shard.call("summary").result()

    back = spawn(1, ShardRestore(store_url, (name,), files, 0, 1))
    summary = back.call("summary").result()
    assert (summary.size, summary.inserted) == (saved.size, saved.inserted)
    assert summary.total == pytest.approx(saved.total)
    assert summary.incarnation == 1
    # Keys that the learner drew from the one before, and priorities that it sends only now.
    back.call("update_priorities", keys, np.full(len(keys), 1e6), 0).result()
    after = back.call("summary").result()
    assert after.stale == summary.stale + len(keys)
    assert after.total == pytest.approx(saved.total), "none of them was taken"
    back.call("check").result()

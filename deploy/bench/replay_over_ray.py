"""`raydqn bench replay`: the replay memory in a process of its own, over Ray."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np

from common import parts
from common.handles import Future, Handle
from common.item import transition_item
from common.types import Array, FrameSpec
from deploy.bench.measurement import Measurement
from deploy.bench.replay_inputs import (
    BATCH,
    CHUNK,
    STACK,
    VECTOR,
    ReplaySizes,
    Stream,
    frame_of,
)
from deploy.bench.turns import (
    BARE,
    OURS,
    TRANSITIONS,
    in_turn,
    measurements,
)
from deploy.runtime.local_ray import local_ray
from deploy.runtime.ray_runtime import RayRuntime
from replay_server.codec import make_codec
from replay_server.server import ReplayServer
from replay_server.writer import ReplayWriter

SAMPLES_IN_FLIGHT = 2
INSERTS_IN_FLIGHT = 8


def bench_over_ray(rounds: int, sizes: ReplaySizes, pong: Array) -> Iterator[Measurement]:
    """One shard in a process of its own, as in a run: inserting, sampling, and both at once."""
    rng = np.random.default_rng(0)
    vectors = rng.random((64 * sizes.large_chunk, *VECTOR.shape)).astype(np.float32)
    with local_ray(sizes.store_bytes) as runtime:
        for what, pool, stack, chunks, kind, capacity in (
            ("pong", pong, STACK, (CHUNK,), "lz4", len(pong) - CHUNK),
            ("pong", pong, STACK, (CHUNK,), "none", len(pong) - CHUNK),
            ("vectors", vectors, 1, (CHUNK, sizes.large_chunk), "none", sizes.vectors),
        ):
            yield from _shard_over_ray(
                runtime, rounds, sizes, what, pool, stack, chunks, kind, capacity
            )


def _shard_over_ray(
    runtime: RayRuntime,
    rounds: int,
    sizes: ReplaySizes,
    what: str,
    pool: Array,
    stack: int,
    chunks: tuple[int, ...],
    kind: str,
    capacity: int,
) -> Iterator[Measurement]:
    frame = frame_of(pool)
    rows = int(capacity * 1.02) + 20 * sizes.large_chunk
    arguments = (capacity, frame, transition_item(stack), 0.6, rows, 0, 0, 0, kind)
    shard = runtime.spawn(ReplayServer, *arguments, part=parts.shard(0), incarnation=0)
    feeders = {
        chunk: runtime.spawn(
            Feeder, shard, pool, stack, chunk, kind, part=parts.actor(index), incarnation=0
        )
        for index, chunk in enumerate(chunks)
    }
    full = 0
    while full < capacity:
        feeders[chunks[-1]].call("feed", sizes.feed_s).result()
        full = shard.call("summary").result().inserted
    name = f"ray, {what}" + (f", {kind}" if what == "pong" else "")
    bare = runtime.spawn(Bare, frame, stack, capacity, part=parts.shard(1), incarnation=0)
    subjects = {BARE: partial(_draw, bare), OURS: partial(_draw, shard)}
    end = time.perf_counter() + sizes.warm_up_s
    while time.perf_counter() < end:
        for work in subjects.values():
            work()
    rates = in_turn(subjects, rounds, sizes.slice_s)
    yield from measurements(f"{name}: sample {BATCH}", rates, TRANSITIONS)
    for chunk, feeder in feeders.items():
        fed = [feeder.call("feed", 2 * sizes.slice_s).result() for _ in range(rounds)]
        yield Measurement.of(f"{name}: insert {chunk}", OURS, fed, TRANSITIONS)
    fed, drawn = [], []
    for _ in range(rounds):
        feeding = feeders[chunks[-1]].call("feed", 3 * sizes.slice_s)
        done, start = 0, time.perf_counter()
        while not feeding.done():
            done += _draw(shard)
        drawn.append(done / (time.perf_counter() - start))
        fed.append(feeding.result())
    yield Measurement.of(f"{name}: both, insert {chunks[-1]}", OURS, fed, TRANSITIONS)
    yield Measurement.of(f"{name}: both, sample {BATCH}", OURS, drawn, TRANSITIONS)
    for handle in (shard, bare, *feeders.values()):
        runtime.kill(handle)


class Feeder:
    """A remote that inserts at full speed, to measure both directions at once."""

    def __init__(self, shard: Handle, pool: Array, stack: int, chunk: int, kind: str) -> None:
        self._stream = Stream(pool, stack, chunk)
        codec = make_codec(kind, frame_of(pool))
        self._writer = ReplayWriter([shard], INSERTS_IN_FLIGHT, stream=chunk, codec=codec)

    def feed(self, seconds: float) -> float:
        """Transitions stored per second."""
        self._writer.take_accepted()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            self._writer.write(self._stream.next(self._writer.continues))
        self._writer.flush()
        return self._writer.take_accepted() / (time.perf_counter() - start)


class Bare:
    """The limit over Ray: a remote that gathers the same frames and does nothing else."""

    def __init__(self, frame: FrameSpec, stack: int, capacity: int) -> None:
        self._frames: Array = np.ones((capacity, *frame.shape), frame.dtype)
        self._capacity, self._stack = capacity, stack
        self._rng = np.random.default_rng(0)

    def sample(self, count: int) -> Array:
        """The frames of one sample, each once."""
        starts = self._rng.integers(0, self._capacity - self._stack, count)
        rows: Array = self._frames[np.unique(starts[:, None] + np.arange(self._stack + 1))]
        return rows


def _draw(shard: Handle, calls: int = 16) -> int:
    """Draw samples with a bounded number in flight, and read them as the learner does, uncopied."""
    in_flight: deque[Future[Array]] = deque()
    for _ in range(calls):
        in_flight.append(shard.call("sample", BATCH))
        if len(in_flight) == SAMPLES_IN_FLIGHT:
            in_flight.popleft().result()
    while in_flight:
        in_flight.popleft().result()
    return calls * BATCH

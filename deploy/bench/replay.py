"""`raydqn bench replay`: what the replay memory does per second, beside what numpy alone could do.

All subjects of one figure take turns, a fraction of a second each, round after round: a machine
that slows down slows all of them. Medians over the rounds are given.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from actors.environments import make_environment
from common import parts
from common.config import EnvConfig
from common.handles import Future, Handle
from common.types import Array, Chunk, FrameSpec
from deploy.bench.measurement import Figure
from deploy.bench.peers import Peer, make_peers, resident_bytes
from deploy.runtime.local import local_ray
from deploy.runtime.ray_runtime import RayRuntime
from replay_server.client import ReplayWriter
from replay_server.codec import COMPRESSIONS, Codec, make_codec
from replay_server.server import ReplayServer
from replay_server.table import Table

PICTURE = FrameSpec((1, 84, 84), "uint8", 1 / 255)
VECTOR = FrameSpec((4,), "float32", 1.0)
STACK = 4
BATCH = 512
CHUNK = 50
LARGE_CHUNK = 1000
PICTURES = 100_000
VECTORS = 1 << 20
PONG_STEPS = 20_000
SLICE_S = 0.3
WARM_UP_S = 2.0  # until shared memory was claimed once
ROUNDS = 7
SAMPLES_IN_FLIGHT = 2
INSERTS_IN_FLIGHT = 8
STORE_BYTES = 2 << 30

OURS = "raydqn"
LIMIT = "numpy (limit)"
BY_SLICE = "numpy by slice (limit)"
LIMITS = (LIMIT, BY_SLICE)
BARE = "bare remote (limit)"
TRANSITIONS, PER_TRANSITION = "transitions/s", "B/transition"

Subjects = Mapping[str, Callable[[], int]]


class Stream:
    """Chunks of one actor that never ends an episode, from a pool of frames used over and over."""

    def __init__(self, pool: Array, stack: int, count: int, n_step: int = 1) -> None:
        """Of `count` transitions each; `pool` is `[P, *frame]`."""
        self._pool = pool
        self._carried = n_step + stack - 1
        self._count = count
        start = np.arange(count)[:, None] + np.arange(stack)
        self._observation = start.astype(np.int32)
        self._next = (start + n_step).astype(np.int32)
        self._position = 0
        self._number = 0
        rng = np.random.default_rng(0)
        self._priority = rng.random(count).astype(np.float32)

    def next(self, continues: bool = True) -> Chunk:
        """The next chunk: the first brings all its frames, later ones what is new.

        Args:
            continues: where it goes, the chunk before is known.
        """
        begins = self._number == 0 or not continues
        frames = self._count + (self._carried if begins else 0)
        if self._position + frames > len(self._pool):
            self._position = 0
        own = self._pool[self._position : self._position + frames]
        self._position += frames
        self._number += 1
        reused = np.arange(0 if begins else self._carried, dtype=np.int32)
        return Chunk(
            frames=own,
            observation=self._observation,
            next_observation=self._next,
            action=np.zeros(self._count, np.int32),
            reward=np.zeros(self._count, np.float32),
            discount=np.ones(self._count, np.float32),
            priority=self._priority,
            version=np.zeros(self._count, np.int64),
            reused=reused + self._count,
            number=self._number,
        )


def in_turn(subjects: Subjects, rounds: int) -> dict[str, list[float]]:
    """Items per second of each subject, once per round.

    Args:
        subjects: by name, a call that returns how many items it dealt with.
        rounds: measurements of each.
    """
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for work in subjects.values():
        work()
    for _ in range(rounds):
        for name, work in subjects.items():
            done, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SLICE_S:
                done += work()
            rates[name].append(done / elapsed)
    return rates


def figures(figure: str, rates: Mapping[str, list[float]], unit: str) -> Iterator[Figure]:
    """The rates, and of ours their ratios to limits and to the best peer, round by round."""
    for name, values in rates.items():
        yield Figure.of(figure, name, values, unit)
    others = [name for name in (*LIMITS, BARE) if name in rates]
    peers = {name: median(v) for name, v in rates.items() if name not in (OURS, *others)}
    if OURS not in rates:
        return
    if peers:
        others.append(max(peers, key=lambda name: peers[name]))
    for other in others:
        ratios = [a / b for a, b in zip(rates[OURS], rates[other], strict=True)]
        yield Figure.of(figure, f"{OURS} ÷ {other}", ratios, "ratio")


def make_table(
    frame: FrameSpec, stack: int, capacity: int, codec: Codec | None = None, seed: int = 0
) -> Table:
    """A table with room for its frames and a little more."""
    rows = int(capacity * 1.02) + 20 * CHUNK
    table = Table(capacity, frame, stack, 0.6, rows, np.random.default_rng(seed), codec=codec)
    table.compile()
    return table


def fill(table: Table, stream: Stream, codec: Codec | None = None) -> None:
    """Until the oldest items go."""
    while not table.evicted:
        table.insert(_packed(stream.next(), codec))


def _packed(chunk: Chunk, codec: Codec | None) -> Chunk:
    if codec is not None:
        assert isinstance(chunk.frames, np.ndarray)
        chunk.frames = codec.pack(chunk.frames)
    return chunk


class Ring:
    """The limit: arrays of numpy with the same columns, without priorities, checks or streams.

    Written by index, as such rings usually are, or by slice, which copies without looking.
    """

    def __init__(self, frame: FrameSpec, stack: int, capacity: int) -> None:
        self._capacity = capacity
        self._frames: Array = np.ones((capacity, *frame.shape), frame.dtype)
        self._stacks: Array = np.ones((2, capacity, stack), np.int32)
        self._columns: list[Array] = [np.ones(capacity, t) for t in ("i4", "f4", "f4", "i8")]
        self._written = 0
        self._stack = stack

    def insert(self, chunk: Chunk, by_slice: bool = False) -> int:
        """Frames, stacks as rows of the ring, and the columns, at the places that come next."""
        assert isinstance(chunk.frames, np.ndarray)
        count = len(chunk)
        places: Any = (self._written + np.arange(count)) % self._capacity
        if by_slice:  # the ring is a multiple of a chunk long
            begin = self._written % self._capacity
            places = slice(begin, begin + count)
        self._frames[places] = chunk.frames[-count:]
        self._stacks[0, places] = (self._written + chunk.observation) % self._capacity
        self._stacks[1, places] = (self._written + chunk.next_observation) % self._capacity
        values = (chunk.action, chunk.reward, chunk.discount, chunk.version)
        for column, value in zip(self._columns, values, strict=True):
            column[places] = value
        self._written += count
        return count

    def gather_frames(self, rows: Array) -> int:
        """The frames of one sample, each once."""
        _ = self._frames[rows]
        return BATCH

    def gather_transitions(self, places: Array) -> int:
        """Observation, next observation, action, reward and discount of these places."""
        _ = self._frames[places], self._frames[places - 1]
        _ = [column[places] for column in self._columns[:3]]
        return len(places)


def bench_replay(repeat: int | None, peers: bool = False) -> Iterator[Figure]:
    """The replay memory: inserting, sampling, updating, bytes; in one process and over Ray.

    Args:
        repeat: rounds. peers: other libraries take part (extra `bench`).
    """
    rounds = repeat or ROUNDS
    yield from _pictures(rounds, peers)
    yield from _vectors(rounds, peers)
    pong = pong_frames()
    yield from _compressed(rounds, pong)
    yield from _over_ray(rounds, pong)


def _pictures(rounds: int, with_peers: bool) -> Iterator[Figure]:
    """Pictures of noise: nothing that a cache or a codec could make use of."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (64 * CHUNK, *PICTURE.shape), np.uint8)
    stream, ring_stream = Stream(pool, STACK, CHUNK), Stream(pool, STACK, CHUNK)
    make_table(PICTURE, STACK, CHUNK)  # imports numba: not the memory's
    before = resident_bytes()
    table = make_table(PICTURE, STACK, PICTURES)
    fill(table, stream)
    claimed = resident_bytes() - before
    ring = Ring(PICTURE, STACK, PICTURES)
    peers = _peers(with_peers, PICTURE, STACK, PICTURES, pool)
    rows = itertools.cycle([_rows_of_stacks(rng, PICTURES) for _ in range(64)])
    samples: dict[str, Callable[[], int]] = {
        LIMIT: lambda: ring.gather_frames(next(rows)),
        OURS: lambda: len(table.sample(BATCH)),
        **{name: peer.sample for name, peer in peers.items()},
    }
    yield from figures(f"pictures: sample {BATCH}", in_turn(samples, rounds), TRANSITIONS)

    def insert() -> int:
        table.insert(stream.next())
        return CHUNK

    inserts: dict[str, Callable[[], int]] = {
        LIMIT: lambda: ring.insert(ring_stream.next()),
        BY_SLICE: lambda: ring.insert(ring_stream.next(), by_slice=True),
        OURS: insert,
        **{name: peer.insert for name, peer in peers.items()},
    }
    yield from figures(f"pictures: insert {CHUNK}", in_turn(inserts, rounds), TRANSITIONS)
    yield from _updates("pictures", table, peers, rounds)
    yield Figure.of("pictures: memory", OURS, [claimed / len(table)], PER_TRANSITION)
    for name, peer in peers.items():
        yield Figure.of("pictures: memory", name, [peer.nbytes / PICTURES], PER_TRANSITION)


def _rows_of_stacks(rng: np.random.Generator, capacity: int) -> Array:
    """Rows of the frames that the stacks of a sample are made of, each once, as a table's are."""
    starts = rng.integers(0, capacity - STACK, BATCH)
    return np.unique(starts[:, None] + np.arange(STACK + 1))


def _vectors(rounds: int, with_peers: bool) -> Iterator[Figure]:
    rng = np.random.default_rng(0)
    pool = rng.random((64 * LARGE_CHUNK, *VECTOR.shape)).astype(np.float32)
    table, ring = make_table(VECTOR, 1, VECTORS), Ring(VECTOR, 1, VECTORS)
    fill(table, Stream(pool, 1, LARGE_CHUNK))
    peers = _peers(with_peers, VECTOR, 1, VECTORS, pool)
    samples: dict[str, Callable[[], int]] = {
        LIMIT: lambda: ring.gather_transitions(rng.integers(0, VECTORS, BATCH)),
        OURS: lambda: len(table.sample(BATCH)),
        **{name: peer.sample for name, peer in peers.items()},
    }
    yield from figures(f"vectors: sample {BATCH}", in_turn(samples, rounds), TRANSITIONS)
    yield from _updates("vectors", table, peers, rounds)


def _updates(what: str, table: Table, peers: Mapping[str, Peer], rounds: int) -> Iterator[Figure]:
    rng = np.random.default_rng(1)
    priorities = rng.random(BATCH)

    def update() -> int:
        keys = rng.integers(table.oldest, table.inserted, BATCH)
        return table.update_priorities(keys, priorities, table.incarnation).applied

    subjects: dict[str, Callable[[], int]] = {OURS: update}
    subjects |= {name: peer.update for name, peer in peers.items() if peer.prioritised}
    yield from figures(f"{what}: update {BATCH}", in_turn(subjects, rounds), "priorities/s")


def _peers(
    wanted: bool, frame: FrameSpec, stack: int, capacity: int, pool: Array
) -> dict[str, Peer]:
    return make_peers(frame, stack, capacity, pool, CHUNK, BATCH) if wanted else {}


def pong_frames() -> Array:
    """Frames of Pong played at random, one copy after the other, `[P, 1, 84, 84]` uint8.

    Raises:
        UserError: ale-py is not installed.
    """
    copies = 8
    environment = make_environment(EnvConfig(id="ALE/Pong-v5", stack=STACK), copies)
    rng = np.random.default_rng(0)
    frames = [environment.reset(0)]
    for _ in range(PONG_STEPS // copies):
        actions = rng.integers(0, environment.spec.num_actions, copies)
        frames.append(environment.step(actions).observation)
    environment.close()
    return np.concatenate(list(np.stack(frames, axis=1)))


def _compressed(rounds: int, pong: Array) -> Iterator[Figure]:
    """Real frames of Pong: bytes and speed of each codec."""
    capacity = len(pong) - CHUNK
    subjects: dict[str, Callable[[], int]] = {}
    packing: dict[str, Callable[[], int]] = {}
    for kind in COMPRESSIONS:
        codec = make_codec(kind, PICTURE)
        table, stream = make_table(PICTURE, STACK, capacity, codec), Stream(pong, STACK, CHUNK)
        fill(table, stream, codec)
        yield Figure.of("pong: memory", kind, [table.nbytes / len(table)], PER_TRANSITION)
        subjects[kind] = partial(_sample, table)
        packing[kind] = partial(_insert, table, stream, codec)
    yield from figures(f"pong: sample {BATCH}", in_turn(subjects, rounds), TRANSITIONS)
    yield from figures(f"pong: pack, insert {CHUNK}", in_turn(packing, rounds), TRANSITIONS)


def _sample(table: Table) -> int:
    return len(table.sample(BATCH))


def _insert(table: Table, stream: Stream, codec: Codec | None) -> int:
    table.insert(_packed(stream.next(), codec))
    return CHUNK


class Feeder:
    """A remote that inserts as fast as it may, for the measurement of both directions at once."""

    def __init__(self, shard: Handle, pool: Array, stack: int, chunk: int, kind: str) -> None:
        self._stream = Stream(pool, stack, chunk)
        codec = make_codec(kind, _frame_of(pool))
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


def _frame_of(pool: Array) -> FrameSpec:
    return PICTURE if pool.ndim > 2 else VECTOR


def _over_ray(rounds: int, pong: Array) -> Iterator[Figure]:
    """One shard in a process of its own, as in a run."""
    rng = np.random.default_rng(0)
    vectors = rng.random((64 * LARGE_CHUNK, *VECTOR.shape)).astype(np.float32)
    with local_ray(STORE_BYTES) as runtime:
        for what, pool, stack, chunks, kind, capacity in (
            ("pong", pong, STACK, (CHUNK,), "lz4", len(pong) - CHUNK),
            ("pong", pong, STACK, (CHUNK,), "none", len(pong) - CHUNK),
            ("vectors", vectors, 1, (CHUNK, LARGE_CHUNK), "none", VECTORS),
        ):
            yield from _shard_over_ray(runtime, rounds, what, pool, stack, chunks, kind, capacity)


def _shard_over_ray(
    runtime: RayRuntime,
    rounds: int,
    what: str,
    pool: Array,
    stack: int,
    chunks: tuple[int, ...],
    kind: str,
    capacity: int,
) -> Iterator[Figure]:
    frame = _frame_of(pool)
    rows = int(capacity * 1.02) + 20 * LARGE_CHUNK
    arguments = (capacity, frame, stack, 0.6, rows, 0, 0, 0, kind)
    shard = runtime.spawn(ReplayServer, *arguments, part=parts.shard(0), incarnation=0)
    feeders = {
        chunk: runtime.spawn(
            Feeder, shard, pool, stack, chunk, kind, part=parts.actor(index), incarnation=0
        )
        for index, chunk in enumerate(chunks)
    }
    full = 0
    while full < capacity:
        feeders[chunks[-1]].call("feed", WARM_UP_S).result()
        full = shard.call("summary").result().inserted
    name = f"ray, {what}" + (f", {kind}" if what == "pong" else "")
    bare = runtime.spawn(Bare, frame, stack, capacity, part=parts.shard(1), incarnation=0)
    subjects = {BARE: partial(_draw, bare), OURS: partial(_draw, shard)}
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        for work in subjects.values():
            work()
    rates = in_turn(subjects, rounds)
    yield from figures(f"{name}: sample {BATCH}", rates, TRANSITIONS)
    for chunk, feeder in feeders.items():
        fed = [feeder.call("feed", 2 * SLICE_S).result() for _ in range(rounds)]
        yield Figure.of(f"{name}: insert {chunk}", OURS, fed, TRANSITIONS)
    fed, drawn = [], []
    for _ in range(rounds):
        feeding = feeders[chunks[-1]].call("feed", 3 * SLICE_S)
        done, start = 0, time.perf_counter()
        while not feeding.done():
            done += _draw(shard)
        drawn.append(done / (time.perf_counter() - start))
        fed.append(feeding.result())
    yield Figure.of(f"{name}: both, insert {chunks[-1]}", OURS, fed, TRANSITIONS)
    yield Figure.of(f"{name}: both, sample {BATCH}", OURS, drawn, TRANSITIONS)
    for handle in (shard, bare, *feeders.values()):
        runtime.kill(handle)


def _draw(shard: Handle, calls: int = 16) -> int:
    """Samples with a bounded number under way, read as the learner reads them: without a copy."""
    under_way: deque[Future[Array]] = deque()
    for _ in range(calls):
        under_way.append(shard.call("sample", BATCH))
        if len(under_way) == SAMPLES_IN_FLIGHT:
            under_way.popleft().result()
    while under_way:
        under_way.popleft().result()
    return calls * BATCH

"""`raydqn bench replay`: what the replay memory does per second, beside what numpy alone could do.

All subjects of one figure take turns, a fraction of a second each, round after round: a machine
that slows down slows all of them. Medians over the rounds are given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from common.item import transition_item
from common.types import Array, Chunk, FrameSpec
from deploy.bench.measurement import Measurement
from deploy.bench.peers import Peer, make_peers, resident_bytes
from deploy.bench.replay_inputs import (
    BATCH,
    CHUNK,
    PICTURE,
    STACK,
    VECTOR,
    ReplaySizes,
    Stream,
    pong_frames,
)
from deploy.bench.replay_over_ray import bench_over_ray
from deploy.bench.ring import Ring
from deploy.bench.turns import (
    BY_SLICE,
    LIMIT,
    OURS,
    PER_TRANSITION,
    TRANSITIONS,
    in_turn,
    measurements,
)
from replay_server.codec import COMPRESSIONS, Codec, make_codec
from replay_server.table import Table

SIZES = ReplaySizes()
"""Of the command; tests replace it."""


def make_table(
    frame: FrameSpec, stack: int, capacity: int, codec: Codec | None = None, seed: int = 0
) -> Table:
    """A table with room for its frames and a little more."""
    rows = int(capacity * 1.02) + 20 * CHUNK
    item, rng = transition_item(stack), np.random.default_rng(seed)
    table = Table(capacity, frame, item, 0.6, rows, rng, codec=codec)
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


def bench_replay(repeat: int, peers: bool = False) -> Iterator[Measurement]:
    """The replay memory: inserting, sampling, updating, bytes; in one process and over Ray.

    Args:
        repeat: rounds. peers: other libraries take part (extra `bench`).
    """
    yield from _pictures(repeat, SIZES, peers)
    yield from _vectors(repeat, SIZES, peers)
    pong = pong_frames(SIZES.pong_steps)
    yield from _compressed(repeat, SIZES, pong)
    yield from bench_over_ray(repeat, SIZES, pong)


def _pictures(rounds: int, sizes: ReplaySizes, with_peers: bool) -> Iterator[Measurement]:
    """Pictures of noise: nothing that a cache or a codec could make use of."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (64 * CHUNK, *PICTURE.shape), np.uint8)
    stream, ring_stream = Stream(pool, STACK, CHUNK), Stream(pool, STACK, CHUNK)
    make_table(PICTURE, STACK, CHUNK)  # imports numba: not the memory's
    before = resident_bytes()
    table = make_table(PICTURE, STACK, sizes.pictures)
    fill(table, stream)
    claimed = resident_bytes() - before
    ring = Ring(PICTURE, STACK, sizes.pictures)
    peers = _peers(with_peers, PICTURE, STACK, sizes.pictures, pool)
    rows = itertools.cycle([_rows_of_stacks(rng, sizes.pictures) for _ in range(64)])
    samples: dict[str, Callable[[], int]] = {
        LIMIT: lambda: ring.gather_frames(next(rows)),
        OURS: lambda: len(table.sample(BATCH)),
        **{name: peer.sample for name, peer in peers.items()},
    }
    yield from measurements(
        f"pictures: sample {BATCH}", in_turn(samples, rounds, sizes.slice_s), TRANSITIONS
    )

    def insert() -> int:
        table.insert(stream.next())
        return CHUNK

    inserts: dict[str, Callable[[], int]] = {
        LIMIT: lambda: ring.insert(ring_stream.next()),
        BY_SLICE: lambda: ring.insert(ring_stream.next(), by_slice=True),
        OURS: insert,
        **{name: peer.insert for name, peer in peers.items()},
    }
    yield from measurements(
        f"pictures: insert {CHUNK}", in_turn(inserts, rounds, sizes.slice_s), TRANSITIONS
    )
    yield from _updates("pictures", table, peers, rounds, sizes)
    yield Measurement.of("pictures: memory", OURS, [claimed / len(table)], PER_TRANSITION)
    for name, peer in peers.items():
        yield Measurement.of(
            "pictures: memory", name, [peer.nbytes / sizes.pictures], PER_TRANSITION
        )


def _rows_of_stacks(rng: np.random.Generator, capacity: int) -> Array:
    """Rows of the frames that the stacks of a sample are made of, each once, as a table's are."""
    starts = rng.integers(0, capacity - STACK, BATCH)
    return np.unique(starts[:, None] + np.arange(STACK + 1))


def _vectors(rounds: int, sizes: ReplaySizes, with_peers: bool) -> Iterator[Measurement]:
    rng = np.random.default_rng(0)
    pool = rng.random((64 * sizes.large_chunk, *VECTOR.shape)).astype(np.float32)
    table, ring = make_table(VECTOR, 1, sizes.vectors), Ring(VECTOR, 1, sizes.vectors)
    fill(table, Stream(pool, 1, sizes.large_chunk))
    peers = _peers(with_peers, VECTOR, 1, sizes.vectors, pool)
    samples: dict[str, Callable[[], int]] = {
        LIMIT: lambda: ring.gather_transitions(rng.integers(0, sizes.vectors, BATCH)),
        OURS: lambda: len(table.sample(BATCH)),
        **{name: peer.sample for name, peer in peers.items()},
    }
    yield from measurements(
        f"vectors: sample {BATCH}", in_turn(samples, rounds, sizes.slice_s), TRANSITIONS
    )
    yield from _updates("vectors", table, peers, rounds, sizes)


def _updates(
    what: str, table: Table, peers: Mapping[str, Peer], rounds: int, sizes: ReplaySizes
) -> Iterator[Measurement]:
    rng = np.random.default_rng(1)
    priorities = rng.random(BATCH)

    def update() -> int:
        keys = rng.integers(table.oldest, table.inserted, BATCH)
        return table.update_priorities(keys, priorities, table.incarnation).applied

    subjects: dict[str, Callable[[], int]] = {OURS: update}
    subjects |= {name: peer.update for name, peer in peers.items() if peer.prioritised}
    yield from measurements(
        f"{what}: update {BATCH}", in_turn(subjects, rounds, sizes.slice_s), "priorities/s"
    )


def _peers(
    wanted: bool, frame: FrameSpec, stack: int, capacity: int, pool: Array
) -> dict[str, Peer]:
    return make_peers(frame, stack, capacity, pool, CHUNK, BATCH) if wanted else {}


def _compressed(rounds: int, sizes: ReplaySizes, pong: Array) -> Iterator[Measurement]:
    """Real frames of Pong: bytes and speed of each codec."""
    capacity = len(pong) - CHUNK
    subjects: dict[str, Callable[[], int]] = {}
    packing: dict[str, Callable[[], int]] = {}
    for kind in COMPRESSIONS:
        codec = make_codec(kind, PICTURE)
        table, stream = make_table(PICTURE, STACK, capacity, codec), Stream(pong, STACK, CHUNK)
        fill(table, stream, codec)
        yield Measurement.of("pong: memory", kind, [table.nbytes / len(table)], PER_TRANSITION)
        subjects[kind] = partial(_sample, table)
        packing[kind] = partial(_insert, table, stream, codec)
    yield from measurements(
        f"pong: sample {BATCH}", in_turn(subjects, rounds, sizes.slice_s), TRANSITIONS
    )
    yield from measurements(
        f"pong: pack, insert {CHUNK}", in_turn(packing, rounds, sizes.slice_s), TRANSITIONS
    )


def _sample(table: Table) -> int:
    return len(table.sample(BATCH))


def _insert(table: Table, stream: Stream, codec: Codec | None) -> int:
    table.insert(_packed(stream.next(), codec))
    return CHUNK

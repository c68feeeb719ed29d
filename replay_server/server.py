"""ReplayServer: one shard, speaking the wire format."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from common import wire
from common.seeding import Role, seed_sequence
from common.types import Array, Chunk, FrameSpec, Sample, ShardSummary
from replay_server.table import Table


class ReplayServer:
    """A `Table` whose callers may live in other processes: flat buffers in, flat buffers out."""

    def __init__(
        self,
        capacity: int,
        frame: FrameSpec,
        stack: int,
        alpha: float,
        frame_capacity: int,
        seed: int,
        shard: int,
        incarnation: int = 0,
    ) -> None:
        """See `Table`; `seed` is the run's."""
        sequence = seed_sequence(seed, Role.SHARD, shard, incarnation)
        self._table = Table(
            capacity=capacity,
            frame=frame,
            stack=stack,
            alpha=alpha,
            frame_capacity=frame_capacity,
            rng=np.random.default_rng(sequence),
            shard=shard,
            incarnation=incarnation,
        )

    def insert(self, buffer: Array) -> int:
        """Store an encoded chunk; returns how many transitions were accepted.

        The buffer may lie in shared memory: it is copied out and not kept.

        Raises:
            WireError: bytes that are no chunk.
            ValueError: a chunk that does not fit this table.
        """
        arrays, _ = wire.decode(buffer)
        chunk = Chunk.from_arrays(arrays)
        self._table.insert(chunk)
        return len(chunk)

    def sample(self, count: int) -> Array:
        """`count` items, encoded; `count` of 0 asks for the summary alone."""
        return encode_sample(self._table.sample(count))

    def update_priorities(self, keys: Array, priorities: Array, incarnation: int) -> None:
        """See `Table.update_priorities`; counted in the summary."""
        self._table.update_priorities(keys, priorities, incarnation)

    def summary(self) -> ShardSummary:
        """Sizes and counters as they are now."""
        return self._table.summary()

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        self._table.check()


_SAMPLE_COLUMNS = tuple(f.name for f in fields(Sample) if f.name != "summary")


def encode_sample(sample: Sample) -> Array:
    """A sample as one flat buffer."""
    columns = {name: getattr(sample, name) for name in _SAMPLE_COLUMNS}
    return wire.encode(columns, asdict(sample.summary))


def decode_sample(buffer: Array) -> Sample:
    """The sample in a flat buffer; its arrays are views that keep the buffer alive."""
    arrays, meta = wire.decode(buffer)
    columns: dict[str, Any] = {name: arrays[name] for name in _SAMPLE_COLUMNS}
    return Sample(**columns, summary=ShardSummary(**meta))

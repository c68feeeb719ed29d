"""ReplayServer: one shard, speaking the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.checkpoint import Files
from common.errors import UnknownFramesError
from common.seeding import Role, seed_sequence
from common.types import Array, FrameSpec, ShardStatistics, ShardSummary
from replay_server.codec import make_codec
from replay_server.messages import decode_chunk, sample_buffer
from replay_server.shard_checkpoint import ShardSaver
from replay_server.shard_restore import ShardRestore, restore_shard
from replay_server.table import Table
from replay_server.table_statistics import take_statistics


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
        compression: str = "none",
        max_frame_bytes: int | None = None,
        origin: ShardRestore | None = None,
    ) -> None:
        """See `Table`; `seed` is the run's, `compression` names a codec.

        Args:
            origin: what of a checkpoint the shard begins with; None: empty.

        Raises:
            CheckpointError: that is damaged.
        """
        self._seed = seed
        self._table = Table(
            capacity=capacity,
            frame=frame,
            stack=stack,
            alpha=alpha,
            frame_capacity=frame_capacity,
            rng=self._rng(shard, incarnation),
            shard=shard,
            incarnation=incarnation,
            codec=make_codec(compression, frame),
            max_frame_bytes=max_frame_bytes,
        )
        self._saver = ShardSaver(self._table, frame)
        if origin is not None:
            restore_shard(self._table, self._saver, frame, origin)

    def _rng(self, shard: int, incarnation: int) -> np.random.Generator:
        return np.random.default_rng(seed_sequence(self._seed, Role.SHARD, shard, incarnation))

    def new_attempt(self, incarnation: int) -> None:
        """Go on as a shard would that was restored from a checkpoint of this moment."""
        self._table.new_attempt(incarnation, self._rng(self._table.shard, incarnation))

    def begin_save(self, url: str, name: str, background: bool) -> None:
        """See `ShardSaver.begin`."""
        self._saver.begin(url, name, background)

    def saved(self) -> Files | None:
        """See `ShardSaver.outcome`."""
        return self._saver.outcome()

    def insert(self, buffer: Array) -> int:
        """Store an encoded chunk.

        The buffer may lie in shared memory: it is copied out and not kept.

        Returns:
            Transitions that were accepted: all, or none if the chunk reuses frames that are not
            here (they went with an earlier life of the shard, or a chunk before was lost); the
            writer then begins anew.

        Raises:
            WireError: bytes that are no chunk.
            ValueError: a chunk that does not fit this table.
        """
        chunk = decode_chunk(buffer)
        try:
            self._table.insert(chunk)
        except UnknownFramesError:
            return 0
        return len(chunk)

    def sample(self, count: int) -> Array:
        """`count` items, encoded (`messages.decode_sample`); 0 asks for the summary alone."""
        buffer: Array | None = None

        def allocate(
            columns: Mapping[str, tuple[tuple[int, ...], Any]], summary: ShardSummary
        ) -> dict[str, Array]:
            nonlocal buffer
            buffer, views = sample_buffer(columns, summary)
            return views

        self._table.sample(count, allocate)
        assert buffer is not None
        return buffer

    def update_priorities(self, keys: Array, priorities: Array, incarnation: int) -> None:
        """See `Table.update_priorities`; counted in the summary."""
        self._table.update_priorities(keys, priorities, incarnation)

    def summary(self) -> ShardSummary:
        """Sizes and counters as they are now."""
        return self._table.summary()

    def statistics(self) -> ShardStatistics:
        """Histograms and means; see `ShardStatistics`."""
        return take_statistics(self._table)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        self._table.check()

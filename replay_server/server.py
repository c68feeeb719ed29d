"""ReplayServer: one shard, speaking the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.checkpoint import Files
from common.errors import UnknownFramesError
from common.item import ItemSpec
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
        item: ItemSpec,
        alpha: float,
        frame_capacity: int,
        seed: int,
        shard: int,
        incarnation: int = 0,
        compression: str = "none",
        max_frame_bytes: int | None = None,
        restore: ShardRestore | None = None,
    ) -> None:
        """See `Table`; `seed` is the run's, `compression` names a codec.

        Args:
            restore: part of a checkpoint to start with; None: an empty shard.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        self._seed = seed
        self._table = Table(
            capacity=capacity,
            frame=frame,
            item=item,
            alpha=alpha,
            frame_capacity=frame_capacity,
            rng=self._rng(shard, incarnation),
            shard=shard,
            incarnation=incarnation,
            codec=make_codec(compression, frame),
            max_frame_bytes=max_frame_bytes,
        )
        self._saver = ShardSaver(self._table, frame)
        if restore is not None:
            restore_shard(self._table, self._saver, frame, restore)

    def _rng(self, shard: int, incarnation: int) -> np.random.Generator:
        return np.random.default_rng(seed_sequence(self._seed, Role.SHARD, shard, incarnation))

    def new_attempt(self, incarnation: int) -> None:
        """Continue as a shard restored from a checkpoint of this moment would."""
        self._table.new_attempt(incarnation, self._rng(self._table.shard, incarnation))

    def begin_save(self, url: str, name: str, background: bool) -> None:
        """See `ShardSaver.begin`."""
        self._saver.begin(url, name, background)

    def saved(self) -> Files | None:
        """See `ShardSaver.outcome`."""
        return self._saver.outcome()

    def insert(self, buffer: Array) -> int:
        """Store an encoded chunk.

        The buffer may lie in shared memory: the table copies it and keeps no view.

        Returns:
            Transitions accepted: all, or none if the shard lacks frames that the chunk reuses
            (an earlier incarnation had them, or an earlier chunk was lost). The writer then sends
            a chunk with all its frames.

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
        """Sizes and counters at this moment."""
        return self._table.summary()

    def statistics(self) -> ShardStatistics:
        """Histograms and means; see `ShardStatistics`."""
        return take_statistics(self._table)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        self._table.check()

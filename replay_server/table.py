"""The storage of one shard: each frame once, a row of numbers per item, priorities in a tree.

The key of an item is the number of items inserted before it; its slot is `key % capacity`. Keys
from `oldest` up to `inserted` are live. Frames lie in a ring of their own. An item holds the ring
rows of the frames in its stacks, so a stack crosses neither an episode nor the write pointer.
"""

from __future__ import annotations

import math

import numpy as np

from common.errors import UnknownFramesError
from common.item import ItemSpec
from common.text import counted
from common.types import Array, Chunk, FrameSpec, Sample, ShardSummary
from replay_server.chunk_streams import ChunkStreams
from replay_server.codec import Codec
from replay_server.frame_retention import FrameRetention
from replay_server.frames import FrameCopy, make_frame_store
from replay_server.sample_columns import Allocate, FrameNumbering, own_arrays, sample_columns
from replay_server.sum_tree import SumTree
from replay_server.table_checks import check_columns, check_sizes, checked_stacks
from replay_server.table_counts import DrawCounts, UpdateCounts
from replay_server.table_items import COUNT, ONE, item_bytes

PRIORITY_FLOOR = 1e-6
"""Added to every priority, so that an item without TD error keeps a chance (Schaul et al. 2016)."""


class Table:
    """A ring of items that are sampled in proportion to priority^α.

    Not safe for threads: one shard has one caller at a time.

    Attributes:
        inserted, oldest: keys of the next item, and of the oldest live item.
        item: the columns of an item. items: `[capacity]`, of `item.dtype`.
        times_sampled: `[capacity]` uint32.
        tree: masses of the items. frames: the frame store, which is saved apart from the items.
        sampled, stale, refused, orphaned, evicted_unsampled: counters, see `ShardSummary`.
        max_priority: the greatest priority so far. newest_version: of the weights that acted.
    """

    def __init__(
        self,
        capacity: int,
        frame: FrameSpec,
        item: ItemSpec,
        alpha: float,
        frame_capacity: int,
        rng: np.random.Generator,
        shard: int = 0,
        incarnation: int = 0,
        codec: Codec | None = None,
        max_frame_bytes: int | None = None,
    ) -> None:
        """An empty table. It claims memory as it fills.

        Args:
            capacity: items, at the most.
            frame: shape and type of a frame.
            item: the columns of an item.
            alpha: exponent of priorities; 0 samples uniformly.
            frame_capacity: frames, at the most; without room for more, the oldest items go.
            rng: for sampling.
            shard, incarnation: named in every summary.
            codec: keeps frames compressed; chunks then bring them compressed.
            max_frame_bytes: bytes of frames, at the most; beyond them the oldest items go.

        Raises:
            ValueError: a size below 1 or too large, or alpha outside [0, 1].
        """
        check_sizes(capacity, item, alpha, max_frame_bytes)
        self.capacity, self.item, self.alpha = capacity, item, alpha
        self.shard, self.incarnation = shard, incarnation
        self.frame, self.codec = frame, codec
        self.inserted = self.oldest = 0
        self.sampled = self.stale = self.refused = self.orphaned = self.evicted_unsampled = 0
        self.max_priority, self.newest_version = 1.0, 0
        self.draws = DrawCounts()
        self._rng = rng
        self.item_bytes = item_bytes(capacity, item)
        self.tree = SumTree(capacity)
        self.frames = make_frame_store(frame, frame_capacity, codec)
        self.retention = FrameRetention(self.frames, max_frame_bytes)
        self.streams = ChunkStreams()
        self.numbering = FrameNumbering(frame, self.frames.capacity, codec is not None)
        self.items: Array = np.zeros(capacity, item.dtype)
        self._values = [column.name for column in item.values]
        # The same memory as bytes: a row is then copied whole, not field by field.
        self._item_rows: Array = self.items.view(f"V{self.items.itemsize}")
        self.times_sampled: Array = np.zeros(capacity, COUNT)

    def __len__(self) -> int:
        """Live items."""
        return self.inserted - self.oldest

    @property
    def frame_capacity(self) -> int:
        """Frames, at the most."""
        return self.frames.capacity

    @property
    def max_frame_bytes(self) -> int | None:
        """Bytes of frames, at the most; None: no limit."""
        return self.retention.max_bytes

    @property
    def evicted(self) -> int:
        """Items ever pushed out."""
        return self.oldest

    @property
    def nbytes(self) -> int:
        """Bytes of the live items and their frames."""
        return len(self) * self.item_bytes + self.frames.nbytes

    def compile(self) -> None:
        """Use compiled loops from now on; see `SumTree.compile`."""
        self.tree.compile()

    def insert(self, chunk: Chunk) -> int:
        """Copy a chunk in; the oldest items make room. Work grows with the chunk, not the table.

        An item without a priority, or with one that is not valid, gets the greatest so far.

        Returns:
            How many items were pushed out.

        Raises:
            UnknownFramesError: the chunk reuses frames that the table lacks. The table counts its
                items as orphaned, and nothing else changes.
            ValueError: a chunk larger than the table, or stacks that name frames it lacks.
        """
        count = len(chunk)
        stacks, rows, nbytes = self._check_chunk(chunk)
        if count == 0:
            return 0
        reused, first_frame, copy = chunk.reused, self.frames.written, None
        if len(reused):
            resolved = self.streams.resolve(chunk, self.frames.first)
            if resolved is None:
                raise self._refusal(chunk)
            reused, first_frame = resolved
            if not self.retention.can_reuse(first_frame, rows, nbytes):
                copy = self.frames.copy_out(reused)
                rows, nbytes = rows + copy.rows, nbytes + copy.nbytes
                first_frame = self.frames.written
                if not self.retention.fits(rows, nbytes):
                    raise self._refusal(chunk)
        masses = self._mass(self._accepted(chunk.priority, count))
        newest_version = int(chunk["version"].max())
        # From here on nothing fails: the table is never left half changed.
        evicted = self.make_room(count, rows, nbytes, first_frame)
        numbers = self._write_frames(chunk, reused, copy)
        self._write_items(chunk, stacks, numbers, masses)
        self.newest_version = max(self.newest_version, newest_version)
        self.retention.add(self.inserted, first_frame)
        self.streams.advance(chunk, numbers)
        self.inserted += count
        return evicted

    def sample(self, count: int, allocate: Allocate = own_arrays) -> Sample:
        """Draw `count` items, each independently and in proportion to its mass.

        Args:
            count: B; 0 asks for the summary alone.
            allocate: makes the arrays of the sample, by name, shape and type, for this method to
                fill; by default new arrays.

        Raises:
            ValueError: the table is empty.
        """
        total = self.tree.total
        if count > 0 and total <= 0:
            raise ValueError("cannot sample from an empty table")
        points = self._rng.random(count) * total
        # random() < 1, but the product may round up to total itself.
        slots = self.tree.find(np.minimum(points, np.nextafter(total, 0)))
        items = np.take(self._item_rows, slots).view(self.items.dtype)
        key = self._key_of(slots)
        age = self.inserted - key
        np.add.at(self.times_sampled, slots, ONE)
        self.sampled += count
        self.draws.count += count
        self.draws.age_sum += int(age.sum())
        self.draws.lag_sum += self.newest_version * count - int(items["version"].sum())
        rows, numbers = self.numbering.number(items["stacks"])
        summary = self.summary()
        out = allocate(sample_columns(count, len(rows), self.frame, self.item), summary)
        frames, probability = out.pop("frames"), out.pop("probability")
        self.frames.gather(rows, frames)
        for name, place in self.item.places.items():
            out[name][...] = numbers[:, place].reshape(out[name].shape)
        for name in self._values:
            out[name][...] = items[name]
        out["key"][...] = key
        out["age"][...] = age
        if count:
            np.divide(self.tree.get(slots), total, out=probability)
        key, age = out.pop("key"), out.pop("age")
        return Sample(frames, out, key, probability, age, summary)

    def update_priorities(self, keys: Array, priorities: Array, incarnation: int) -> UpdateCounts:
        """Give items new priorities; updates of items that are gone are counted and dropped.

        Args:
            keys: `[n]` int64, as sampled.
            priorities: `[n]`, at least 0.
            incarnation: of the table that the keys were sampled from.
        """
        live = (keys >= self.oldest) & (keys < self.inserted) & (incarnation == self.incarnation)
        good = np.isfinite(priorities) & (priorities >= 0)
        use = live & good
        counts = UpdateCounts(
            applied=int(np.count_nonzero(use)),
            stale=len(keys) - int(np.count_nonzero(live)),
            refused=int(np.count_nonzero(live & ~good)),
        )
        self.stale += counts.stale
        self.refused += counts.refused
        if counts.applied:
            if counts.applied < len(keys):
                keys, priorities = keys[use], priorities[use]
            accepted = priorities.astype(np.float64)
            self.max_priority = max(self.max_priority, float(accepted.max()))
            self.tree.set(keys % self.capacity, self._mass(accepted), checked=True)
        return counts

    def summary(self) -> ShardSummary:
        """Sizes and counters at this moment."""
        return ShardSummary(
            shard=self.shard,
            incarnation=self.incarnation,
            total=self.tree.total,
            size=len(self),
            nbytes=self.nbytes,
            inserted=self.inserted,
            sampled=self.sampled,
            evicted=self.evicted,
            evicted_unsampled=self.evicted_unsampled,
            stale=self.stale,
            refused=self.refused,
            orphaned=self.orphaned,
        )

    def new_attempt(self, incarnation: int, rng: np.random.Generator) -> None:
        """Continue as a table restored from a checkpoint of this moment would.

        Keys handed out before become stale, and streams of chunks start again.
        """
        self.incarnation = incarnation
        self._rng = rng
        self.streams.clear()

    def expect_priority(self, priority: float) -> None:
        """Give new items without a priority at least this one."""
        self.max_priority = max(self.max_priority, priority)

    def live_slots(self) -> Array:
        """Slots of the live items, oldest first."""
        return np.arange(self.oldest, self.inserted) % self.capacity

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold. Slow: for tests."""
        self.tree.check()
        self.frames.check()
        assert 0 <= self.oldest <= self.inserted
        assert len(self) <= self.capacity
        live = self.live_slots()
        masses = self.tree.get(np.arange(self.capacity))
        assert (masses[live] > 0).all(), "a live item can never be drawn"
        assert np.count_nonzero(masses) == len(live), "a dead item can be drawn"
        stacks = self.items["stacks"][live].astype(np.int64)
        rows = stacks.reshape(len(live), self.item.num_stacks * self.item.stack)
        self.retention.check(self.oldest, self.inserted, rows)

    def make_room(self, count: int, rows: int, nbytes: int, first_frame: int) -> int:
        """Push out the items that a chunk overwrites, and those beyond the limit of bytes.

        Args:
            count, rows, nbytes: of the chunk.
            first_frame: number of the oldest frame that it needs.

        Returns:
            How many items were pushed out.
        """
        overwritten = max(self.oldest, self.inserted + count - self.capacity)
        oldest = self.retention.release(overwritten, self.inserted, rows, nbytes, first_frame)
        evicted = oldest - self.oldest
        if evicted:
            for places in self._slots_of(self.oldest, evicted):
                times_sampled = self.times_sampled[places]
                self.evicted_unsampled += len(times_sampled) - int(np.count_nonzero(times_sampled))
            # The chunk itself sets the leaves of the slots it takes.
            if overwritten < oldest:
                self.tree.set(
                    np.arange(overwritten, oldest) % self.capacity,
                    np.zeros(oldest - overwritten),
                    checked=True,
                )
            self.oldest = oldest
        return evicted

    def _check_chunk(self, chunk: Chunk) -> tuple[Array, int, int]:
        """All stacks, `[K, stacks, S]`; rows and bytes of all frames that the chunk brings."""
        count = len(chunk)
        rows, nbytes = self.frames.cost(chunk.frames)
        if count > self.capacity or not self.retention.fits(rows, nbytes):
            limit = self.max_frame_bytes
            raise ValueError(
                f"chunk of {counted(count, 'item')} and {counted(chunk.num_frames, 'frame')} "
                f"({counted(nbytes, 'byte')}): the table holds {self.capacity} and "
                f"{self.frames.capacity}"
                + (f" ({counted(limit, 'byte')})" if limit is not None else "")
            )
        check_columns(chunk, self.item)
        return checked_stacks(chunk, self.item), rows, nbytes

    def _refusal(self, chunk: Chunk) -> UnknownFramesError:
        self.orphaned += len(chunk)
        return UnknownFramesError(f"chunk {chunk.number} of stream {chunk.stream}: unknown frames")

    def _write_frames(self, chunk: Chunk, reused: Array, copy: FrameCopy | None) -> Array:
        """Append the frames of a chunk; returns the numbers of all frames that it names."""
        if copy is not None:
            reused = self.frames.write_copy(copy)
        own = self.frames.written
        numbers = np.arange(own, own + chunk.num_frames)
        if len(reused):
            numbers = np.concatenate((reused, numbers))
        self.frames.write(chunk.frames)
        return numbers

    def _write_items(self, chunk: Chunk, stacks: Array, numbers: Array, masses: Array) -> None:
        # Row of each frame that the chunk may name; PAD is −1 and picks the last: the zeros.
        row_of = np.empty(len(numbers) + 1, np.int32)
        row_of[:-1] = numbers % self.frames.capacity
        row_of[-1] = self.frames.capacity
        done = 0
        for places in self._slots_of(self.inserted, len(chunk)):
            part = slice(done, done + places.stop - places.start)
            items = self.items[places]
            items["stacks"] = row_of[stacks[part]]
            for name in self._values:
                items[name] = chunk[name][part]
            self.times_sampled[places] = 0
            self.tree.set(np.arange(places.start, places.stop), masses[part], checked=True)
            done = part.stop

    def _slots_of(self, first_key: int, count: int) -> list[slice]:
        """The slots of consecutive keys: one run of neighbours, two where the ring ends."""
        begin = first_key % self.capacity
        end = begin + count
        if end <= self.capacity:
            return [slice(begin, end)]
        return [slice(begin, self.capacity), slice(0, end - self.capacity)]

    def _accepted(self, priority: Array | None, count: int) -> Array:
        """Priorities of new items: the valid ones as given, the greatest so far for the others."""
        if priority is None:
            return np.full(count, self.max_priority)
        accepted = priority.astype(np.float64)
        low, high = float(accepted.min()), float(accepted.max())
        if low >= 0 and high < math.inf:  # NaN compares as false
            self.max_priority = max(self.max_priority, high)
            return accepted
        good = np.isfinite(accepted) & (accepted >= 0)
        self.refused += int((~good).sum())
        if good.any():
            self.max_priority = max(self.max_priority, float(accepted[good].max()))
        accepted[~good] = self.max_priority
        return accepted

    def _mass(self, priorities: Array) -> Array:
        """The one place where α is applied: (p + floor)^α (Schaul et al. 2016, equation 1)."""
        masses: Array = (priorities + PRIORITY_FLOOR) ** self.alpha
        return masses

    def _key_of(self, slots: Array) -> Array:
        """Key of the live item in each slot: the only one ≡ slot in [oldest, oldest + capacity)."""
        lap = self.oldest // self.capacity * self.capacity
        keys: Array = slots + lap
        keys += (slots < self.oldest - lap) * self.capacity
        return keys

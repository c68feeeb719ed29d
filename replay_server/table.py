"""The storage of one shard: frames once, numbers for the rest, priorities in a tree.

An item's key is the number of items inserted before it, its slot is `key % capacity`. Keys from
`oldest` up to `inserted` are live. Frames lie in a ring of their own; an item holds the ring rows
of the frames in its two stacks, so a stack can cross neither an episode nor the write pointer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UnknownFramesError
from common.types import (
    PAD,
    PRIORITIES,
    TIMES,
    Array,
    Chunk,
    FrameSpec,
    PackedFrames,
    Sample,
    ShardStatistics,
    ShardSummary,
)
from replay_server.codec import Codec
from replay_server.frames import FrameStore, make_frame_store
from replay_server.sum_tree import SumTree

PRIORITY_FLOOR = 1e-6
"""Added to every priority, so that an item without TD error keeps a chance (Schaul et al. 2016)."""
COUNT = np.dtype(np.uint32)
ONE = COUNT.type(1)
REACH = 0.05
"""Part of the ring that a chunk may reach back over: frames farther back are written again. What
is reached back to keeps all that was written since from going one by one; it would go at once."""
SMALL_FRAME_BYTES = 256
"""Below, finding a sample's repeated frames costs more than sending them twice."""

Columns = Mapping[str, tuple[tuple[int, ...], Any]]
Allocate = Callable[[Columns, ShardSummary], dict[str, Array]]


@dataclass(slots=True)
class UpdateCounts:
    """What became of priority updates: applied, too late (stale), or no number at all (refused)."""

    applied: int
    stale: int
    refused: int


COUNTERS = ("sampled", "stale", "refused", "orphaned", "evicted_unsampled")
"""Attributes of a table that only count what happened."""


@dataclass(slots=True)
class TableImage:
    """A table without its frames.

    Attributes:
        items: `[L]`, live items, oldest first; their stacks name rows of the ring.
        mass: `[L]` float64. times_sampled: `[L]` uint32.
        runs: `[R, 2]` int64, see `Table`.
        first_frame, written_frames: numbers of the oldest frame, and of the next.
        layout: see `Table.layout`.
        inserted: items ever inserted; the key of the newest is one less.
        counters: see `COUNTERS`.
        max_priority: the greatest priority seen. newest_version: of the weights that acted.
    """

    items: Array
    mass: Array
    times_sampled: Array
    runs: Array
    first_frame: int
    written_frames: int
    layout: dict[str, Any]
    inserted: int
    counters: dict[str, int]
    max_priority: float
    newest_version: int

    @property
    def frame_count(self) -> int:
        """Frames that are there."""
        return self.written_frames - self.first_frame

    def without_frames_before(self, first_frame: int) -> None:
        """Let the items go that need frames older than that."""
        if first_frame <= self.first_frame:
            return
        self.first_frame = first_frame
        kept = int(np.searchsorted(self.runs[:, 1], first_frame))
        first_key = int(self.runs[kept, 0]) if kept < len(self.runs) else self.inserted
        gone = max(0, len(self.items) - (self.inserted - first_key))
        self.runs = self.runs[kept:]
        self.items, self.mass = self.items[gone:], self.mass[gone:]
        self.times_sampled = self.times_sampled[gone:]


def item_dtype(stack: int) -> np.dtype[np.void]:
    """One item: a row, so that reading it costs one access to memory, not one per column."""
    return np.dtype(
        [
            ("stacks", np.int32, (2, stack)),  # rows of frames: observation, next observation
            ("action", np.int32),
            ("reward", np.float32),
            ("discount", np.float32),
            ("version", np.int64),
        ]
    )


def item_bytes(capacity: int, stack: int) -> int:
    """Bytes of one item without its frames, in a table of `capacity`: row, count, its tree."""
    tree = SumTree.bytes_of(capacity)
    return item_dtype(stack).itemsize + COUNT.itemsize + math.ceil(tree / capacity)


def _own_arrays(columns: Columns, _: ShardSummary) -> dict[str, Array]:
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in columns.items()}


class Table:
    """A ring of transitions that can be sampled in proportion to priority^α.

    Not safe for threads: one shard has one caller at a time.
    """

    def __init__(
        self,
        capacity: int,
        frame: FrameSpec,
        stack: int,
        alpha: float,
        frame_capacity: int,
        rng: np.random.Generator,
        shard: int = 0,
        incarnation: int = 0,
        codec: Codec | None = None,
        max_frame_bytes: int | None = None,
    ) -> None:
        """An empty table. Memory is claimed as it fills.

        Args:
            capacity: transitions, at the most.
            frame: shape and type of a frame.
            stack: S, frames in an observation.
            alpha: exponent of priorities; 0 samples uniformly.
            frame_capacity: frames, at the most; when they run out before the transitions do, the
                oldest transitions go.
            rng: for sampling.
            shard, incarnation: named in every summary.
            codec: keeps frames compressed; chunks then bring them compressed.
            max_frame_bytes: of frames, at the most; then too the oldest go.

        Raises:
            ValueError: a size below 1 or too large, or alpha outside [0, 1].
        """
        for name, value in (
            ("capacity", capacity),
            ("stack", stack),
            ("max_frame_bytes", 1 if max_frame_bytes is None else max_frame_bytes),
        ):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha}: must be between 0 and 1")
        self.capacity = capacity
        self.alpha = alpha
        self.shard = shard
        self.incarnation = incarnation
        self.inserted = 0
        self.oldest = 0  # key of the oldest live item
        self.sampled = 0
        self.stale = 0
        self.refused = 0
        self.orphaned = 0
        self.evicted_unsampled = 0
        self._rng = rng
        self._tree = SumTree(capacity)
        self._max_priority = 1.0
        self.stack = stack
        self._max_frame_bytes = max_frame_bytes
        self._item_bytes = item_bytes(capacity, stack)
        self._frame = frame
        self._codec = codec
        self._frames = make_frame_store(frame, frame_capacity, codec)
        self._reach = int(self._frames.capacity * REACH)
        self._may_repeat = codec is None and frame.nbytes < SMALL_FRAME_BYTES
        # Used within `sample` alone: the place of a ring's row among the frames of the sample.
        scratch_rows = 0 if self._may_repeat else self._frames.capacity + 1
        self._number_of_row: Array = np.zeros(scratch_rows, np.int32)
        self._items: Array = np.zeros(capacity, item_dtype(stack))
        # The same as bytes: rows are then copied whole, not field by field.
        self._item_rows: Array = self._items.view(f"V{self._items.itemsize}")
        self._times_sampled: Array = np.zeros(capacity, COUNT)
        # (first key, first frame) of runs of items, oldest first, both ascending: the items from
        # first key up to the next run's need no frame older than first frame.
        self._runs: deque[tuple[int, int]] = deque()
        # Of each stream its newest chunk: number, and the number of every frame it named.
        self._streams: dict[int, tuple[int, Array]] = {}
        self._newest_version = 0
        # Since the statistics were last asked for: items drawn, sums of their ages and lags.
        self._drawn, self._age_sum, self._lag_sum = 0, 0, 0

    def __len__(self) -> int:
        """Live items."""
        return self.inserted - self.oldest

    @property
    def frame_capacity(self) -> int:
        """Frames, at the most."""
        return self._frames.capacity

    @property
    def max_frame_bytes(self) -> int | None:
        """Bytes of frames, at the most."""
        return self._max_frame_bytes

    @property
    def evicted(self) -> int:
        """Items ever pushed out."""
        return self.oldest

    @property
    def nbytes(self) -> int:
        """Bytes that live items and their frames take."""
        return len(self) * self._item_bytes + self._frames.nbytes

    def compile(self) -> None:
        """Go over to compiled loops now; see `SumTree.compile`."""
        self._tree.compile()

    def can_sample(self, count: int) -> bool:
        """Whether the memory holds `count` items or more."""
        return len(self) >= count

    def insert(self, chunk: Chunk) -> int:
        """Copy a chunk in; the oldest items make room. Work grows with the chunk, not the table.

        An item without a priority, or with one that is no number, gets the greatest one seen.

        Returns:
            How many items were pushed out.

        Raises:
            UnknownFramesError: it reuses frames that are not here; counted, nothing else changes.
            ValueError: a chunk larger than the table, or stacks that name frames it lacks.
        """
        count = len(chunk)
        stacks, rows, nbytes = self._check_chunk(chunk)
        if count == 0:
            return 0
        first_frame, held = self._frames.written, None
        reused = chunk.reused
        if len(reused):
            reused, first_frame = self._reused_frames(chunk)
            if not self._reaches(first_frame, rows, nbytes):
                held = self._frames.hold(reused)
                rows, nbytes = rows + held.rows, nbytes + held.nbytes
                first_frame = self._frames.written
                if not self._fits(rows, nbytes):
                    raise self._refusal(chunk)
        masses = self._mass(self._accepted(chunk.priority, count))
        newest_version = int(chunk.version.max())
        # From here on nothing fails: the table is never left half changed.
        evicted = self._make_room(count, rows, nbytes, first_frame)
        if held is not None:
            first_frame = self._frames.written
            reused = self._frames.write_held(held)
        own = self._frames.written
        numbers = np.arange(own, own + chunk.num_frames)
        if len(reused):
            numbers = np.concatenate((reused, numbers))
        self._frames.write(chunk.frames)
        # Row of each frame that the chunk may name; PAD is −1 and picks the last: the zeros.
        row_of = np.empty(len(numbers) + 1, np.int32)
        row_of[:-1] = numbers % self._frames.capacity
        row_of[-1] = self._frames.capacity
        done = 0
        for places in self._slots_of(self.inserted, count):
            part = slice(done, done + places.stop - places.start)
            items = self._items[places]
            items["stacks"] = row_of[stacks[part]]
            items["action"] = chunk.action[part]
            items["reward"] = chunk.reward[part]
            items["discount"] = chunk.discount[part]
            items["version"] = chunk.version[part]
            self._times_sampled[places] = 0
            self._tree.set(np.arange(places.start, places.stop), masses[part], checked=True)
            done = part.stop
        self._newest_version = max(self._newest_version, newest_version)

        first_key = self.inserted
        while self._runs and self._runs[-1][1] > first_frame:  # it reaches further back than they
            first_key, _ = self._runs.pop()
        self._runs.append((first_key, first_frame))
        self._streams[chunk.stream] = (chunk.number, numbers)
        self.inserted += count
        return evicted

    def sample(self, count: int, allocate: Allocate = _own_arrays) -> Sample:
        """Draw `count` items, each independently and in proportion to its mass.

        Args:
            count: B; 0 asks for the summary alone.
            allocate: makes the arrays of the sample, by name, shape and type, for this method to
                fill; by default they are its own.

        Raises:
            ValueError: the table is empty.
        """
        total = self._tree.total
        if count > 0 and total <= 0:
            raise ValueError("cannot sample from an empty table")
        points = self._rng.random(count) * total
        # random() < 1, but the product may round up to total itself.
        slots = self._tree.find(np.minimum(points, np.nextafter(total, 0)))
        items = np.take(self._item_rows, slots).view(self._items.dtype)
        key = self._key_of(slots)
        age = self.inserted - key
        np.add.at(self._times_sampled, slots, ONE)
        self.sampled += count
        self._drawn += count
        self._age_sum += int(age.sum())
        self._lag_sum += self._newest_version * count - int(items["version"].sum())

        stacks = items["stacks"]
        rows: Array
        numbers: Array
        if self._may_repeat:
            rows = stacks.reshape(-1)
            numbers = np.arange(len(rows), dtype=np.int32).reshape(stacks.shape)
        else:
            rows = np.sort(stacks, axis=None)
            is_new = np.empty(len(rows), bool)
            is_new[:1] = True
            np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
            rows = rows[is_new]
            # Looking numbers up takes a sixth of what numpy.unique takes for its inverse.
            self._number_of_row[rows] = np.arange(len(rows), dtype=np.int32)
            numbers = self._number_of_row[stacks]
        summary = self.summary()
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "frames": ((len(rows), *self._frame.shape), self._frame.dtype),
            "observation": ((count, self.stack), np.int32),
            "next_observation": ((count, self.stack), np.int32),
            "action": ((count,), np.int32),
            "reward": ((count,), np.float32),
            "discount": ((count,), np.float32),
            "key": ((count,), np.int64),
            "probability": ((count,), np.float64),
            "age": ((count,), np.int64),
            "version": ((count,), np.int64),
        }
        out = allocate(shapes, summary)
        self._frames.gather(rows, out["frames"])
        out["observation"][...] = numbers[:, 0]
        out["next_observation"][...] = numbers[:, 1]
        for name in ("action", "reward", "discount", "version"):
            out[name][...] = items[name]
        out["key"][...] = key
        out["age"][...] = age
        if count:
            np.divide(self._tree.get(slots), total, out=out["probability"])
        return Sample(**out, summary=summary)

    def update_priorities(self, keys: Array, priorities: Array, incarnation: int) -> UpdateCounts:
        """Give items new priorities; updates that come too late are counted and dropped.

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
            self._max_priority = max(self._max_priority, float(accepted.max()))
            self._tree.set(keys % self.capacity, self._mass(accepted), checked=True)
        return counts

    def summary(self) -> ShardSummary:
        """Sizes and counters as they are now."""
        return ShardSummary(
            shard=self.shard,
            incarnation=self.incarnation,
            total=self._tree.total,
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

    def statistics(self) -> ShardStatistics:
        """Histograms over all live items, and means over those drawn since this was last asked.

        Work grows with the table (milliseconds for a million items).
        """
        live = self._live_slots()
        times = self._times_sampled[live]
        # 0, 1, 2, 3–4, 5–8, …: the exponent of (times − ½) is that of the power of two above it.
        bins = np.where(times > 0, np.frexp(times - 0.5)[1] + 1, 0)
        times_sampled = np.bincount(np.minimum(bins, len(TIMES) - 1), minlength=len(TIMES))
        priorities: list[int] = []
        if self.alpha > 0:
            priority = self._tree.get(live) ** (1 / self.alpha) - PRIORITY_FLOOR
            edges = 10.0 ** np.arange(-4, len(PRIORITIES) - 5)
            counts = np.bincount(
                np.searchsorted(edges, priority, "right"), minlength=len(edges) + 1
            )
            priorities = counts.tolist()
        drawn = max(1, self._drawn)
        statistics = ShardStatistics(
            summary=self.summary(),
            times_sampled=times_sampled.tolist(),
            priorities=priorities,
            drawn=self._drawn,
            age=self._age_sum / drawn,
            version_lag=self._lag_sum / drawn,
        )
        self._drawn, self._age_sum, self._lag_sum = 0, 0, 0
        return statistics

    # --- on disk ----------------------------------------------------------------------------

    @property
    def frames(self) -> FrameStore:
        """Where the frames are; they are saved apart from the items."""
        return self._frames

    def new_attempt(self, incarnation: int, rng: np.random.Generator) -> None:
        """Go on as a table of the same contents would that was only just restored.

        Keys handed out before are stale from here on, and streams of chunks begin anew.
        """
        self.incarnation = incarnation
        self._rng = rng
        self._streams.clear()

    def image(self) -> TableImage:
        """All but the frames, copied: whatever happens to the table, it stays as it is."""
        live = self._live_slots()
        return TableImage(
            items=self._items[live],
            mass=self._tree.get(live),
            times_sampled=self._times_sampled[live],
            runs=np.array(self._runs, np.int64).reshape(-1, 2),
            first_frame=self._frames.first,
            written_frames=self._frames.written,
            layout=self.layout(),
            inserted=self.inserted,
            counters={name: getattr(self, name) for name in COUNTERS},
            max_priority=self._max_priority,
            newest_version=self._newest_version,
        )

    def layout(self) -> dict[str, Any]:
        """What two tables must have in common for one to take over the other's image as it is."""
        return {
            "capacity": self.capacity,
            "frame_rows": self._frames.capacity,
            "frame_shape": list(self._frame.shape),
            "frame_dtype": self._frame.dtype,
            "stack": self.stack,
            "alpha": self.alpha,
            "compression": "none" if self._codec is None else self._codec.kind,
        }

    def restore(self, image: TableImage) -> None:
        """Be what an image says. The table is empty, and `frames` holds the image's already.

        Raises:
            ValueError: an image of another layout, or one that contradicts itself.
        """
        if image.layout != self.layout():
            raise ValueError("image of a table of another layout")
        count = len(image.items)
        oldest = image.inserted - count
        if oldest < 0 or count > self.capacity:
            raise ValueError(f"{count} items of {image.inserted}: impossible")
        if len(image.runs) and image.runs[-1, 0] >= image.inserted:
            raise ValueError(f"a run from item {image.runs[-1, 0]} on: there is none")
        self.inserted, self.oldest = image.inserted, oldest
        for name, value in image.counters.items():
            setattr(self, name, value)
        self._max_priority, self._newest_version = image.max_priority, image.newest_version
        self._runs = deque(map(tuple, image.runs.tolist()))
        live = self._live_slots()
        self._items[live] = image.items
        self._times_sampled[live] = image.times_sampled
        self._tree.set(live, image.mass)
        self._make_room(0, 0, 0, self._frames.written)  # there may be fewer bytes for frames now
        try:
            self.check()
        except AssertionError as error:
            raise ValueError(f"an image that contradicts itself ({error})") from None

    def chunks(self, first: int, count: int, size: int) -> Iterator[tuple[Chunk, Array]]:
        """Live items from the `first`-oldest on, `size` in a chunk, frames not compressed.

        Yields:
            A chunk, which reuses frames of the one before, and how often each of its items was
            sampled. Priorities are float64, so that a table of the same α gives each item the mass
            that it has here.
        """
        named: Array = np.zeros(0, np.int32)  # rows of the frames that the chunk before named
        end = self.oldest + first + count
        for number, begin in enumerate(range(self.oldest + first, end, size)):
            slots = np.arange(begin, min(begin + size, end)) % self.capacity
            items = self._items[slots]
            stacks = items["stacks"]
            rows = np.unique(stacks)
            rows = rows[rows != self._frames.capacity]  # the frame of zeros
            reused = np.flatnonzero(np.isin(named, rows)).astype(np.int32)
            new = rows[~np.isin(rows, named)]
            named = np.concatenate((named[reused], new))
            number_of = np.full(self._frames.capacity + 1, PAD, np.int32)
            number_of[named] = np.arange(len(named))
            numbers = number_of[stacks]
            frames = np.empty((len(new), *self._frame.shape), self._frame.dtype)
            self._frames.gather(new, frames)
            masses = self._tree.get(slots)
            priority = None
            if self.alpha > 0:
                with np.errstate(over="ignore"):  # an α near 0 tells no priorities apart
                    priority = masses ** (1 / self.alpha) - PRIORITY_FLOOR
                priority = np.clip(priority, 0.0, self._max_priority)
            chunk = Chunk(
                frames=frames,
                observation=numbers[:, 0],
                next_observation=numbers[:, 1],
                action=items["action"],
                reward=items["reward"],
                discount=items["discount"],
                priority=priority,
                version=items["version"],
                reused=reused,
                stream=-1,  # no actor's
                number=number,
            )
            yield chunk, self._times_sampled[slots]

    def expect_priority(self, priority: float) -> None:
        """Give new items without a priority at least this one."""
        self._max_priority = max(self._max_priority, priority)

    def absorb(self, chunk: Chunk, times_sampled: Array) -> None:
        """Insert what `chunks` of another table gave."""
        if self._codec is not None:
            assert not isinstance(chunk.frames, PackedFrames)
            chunk.frames = self._codec.pack(chunk.frames)
        self.insert(chunk)
        keys = np.arange(self.inserted - len(chunk), self.inserted)
        self._times_sampled[keys % self.capacity] = times_sampled

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold. Slow: for tests."""
        self._tree.check()
        self._frames.check()
        assert 0 <= self.oldest <= self.inserted
        assert len(self) <= self.capacity
        live = self._live_slots()
        masses = self._tree.get(np.arange(self.capacity))
        assert (masses[live] > 0).all(), "a live item can never be drawn"
        assert np.count_nonzero(masses) == len(live), "a dead item can be drawn"
        assert self._max_frame_bytes is None or self._frames.nbytes <= self._max_frame_bytes
        for column in zip(*self._runs, strict=True):
            assert list(column) == sorted(column)
        if not len(self):
            assert not self._runs
            return
        assert self._runs, "items without a run"
        assert self._runs[0][0] <= self.oldest
        first_frame = self._runs[0][1]
        assert first_frame >= max(self._frames.first, self._frames.written - self.frame_capacity)
        rows = self._items["stacks"][live].reshape(len(live), -1).astype(np.int64)
        assert ((rows >= 0) & (rows <= self.frame_capacity)).all()
        # How far behind the oldest frame that is kept each row lies; the zeros belong to no ring.
        behind = (rows - first_frame) % self.frame_capacity
        is_frame = rows != self.frame_capacity
        assert (behind < self._frames.written - first_frame)[is_frame].all(), "a frame is gone"
        first_keys, first_frames = np.array(self._runs, np.int64).T
        runs = np.searchsorted(first_keys, np.arange(self.oldest, self.inserted), "right") - 1
        kept_from = (first_frames[runs] - first_frame)[:, None]
        assert (behind >= kept_from)[is_frame].all(), "a frame goes before its item"

    def _slots_of(self, first_key: int, count: int) -> list[slice]:
        """The slots of consecutive keys: one run of neighbours, two where the ring ends."""
        begin = first_key % self.capacity
        end = begin + count
        if end <= self.capacity:
            return [slice(begin, end)]
        return [slice(begin, self.capacity), slice(0, end - self.capacity)]

    def _live_slots(self) -> Array:
        return np.arange(self.oldest, self.inserted) % self.capacity

    def _check_chunk(self, chunk: Chunk) -> tuple[Array, int, int]:
        """Both stacks, `[K, 2, S]`; rows of frames and bytes in all that the chunk needs."""
        count, frames = len(chunk), chunk.num_frames + len(chunk.reused)
        rows, nbytes = self._frames.cost(chunk.frames)
        if count > self.capacity or not self._fits(rows, nbytes):
            limit = self._max_frame_bytes
            raise ValueError(
                f"chunk of {count} transitions and {chunk.num_frames} frames ({nbytes} bytes): the "
                f"table holds {self.capacity} and {self._frames.capacity}"
                + (f" ({limit} bytes)" if limit is not None else "")
            )
        shape, stack_shape = (count,), (count, self.stack)
        for name in ("action", "reward", "discount", "version", "priority"):
            column = getattr(chunk, name)
            if column is not None and column.shape != shape:
                raise ValueError(f"{name} of shape {column.shape}: must be {shape}")
        for numbers in (chunk.observation, chunk.next_observation):
            if numbers.shape != stack_shape:
                raise ValueError(f"stacks {numbers.shape}: must be {stack_shape}")
            if numbers.dtype.kind != "i":
                raise ValueError(f"stacks of {numbers.dtype}: must be signed whole numbers")
        if chunk.reused.dtype != np.int32:
            raise ValueError(f"reused frames of {chunk.reused.dtype}: must be int32")
        stacks = np.empty((count, 2, self.stack), np.int64)
        stacks[:, 0], stacks[:, 1] = chunk.observation, chunk.next_observation
        # PAD, the least that is allowed, becomes 0, and what is less a very large number.
        if count and (stacks - PAD).view(np.uint64).max() > frames:
            raise ValueError(f"a stack names a frame outside the chunk's {frames}")
        return stacks, rows, nbytes

    def _fits(self, rows: int, nbytes: int) -> bool:
        """Whether so many frames could be there at all."""
        limit = self._max_frame_bytes
        return rows <= self._frames.capacity and (limit is None or nbytes <= limit)

    def _reaches(self, first_frame: int, rows: int, nbytes: int) -> bool:
        """Whether a chunk of so many rows and bytes may hold on to frames from `first_frame` on."""
        back = self._frames.written - first_frame
        return back <= self._reach and self._fits(
            back + rows, self._frames.bytes_from(first_frame) + nbytes
        )

    def _reused_frames(self, chunk: Chunk) -> tuple[Array, int]:
        """Numbers in the ring of the frames that a chunk reuses, `[R]` int64, and the least.

        Raises:
            UnknownFramesError: they are not here.
        """
        number, named = self._streams.get(chunk.stream, (None, chunk.reused))
        if number == chunk.number - 1:
            with suppress(IndexError):
                # Negative numbers, read as unsigned, are too large like others: one test for both.
                reused: Array = named.take(chunk.reused.view(np.uint32))
                first = int(reused.min())
                if first >= self._frames.first:
                    return reused, first
        raise self._refusal(chunk)

    def _refusal(self, chunk: Chunk) -> UnknownFramesError:
        self.orphaned += len(chunk)
        return UnknownFramesError(f"chunk {chunk.number} of stream {chunk.stream}: unknown frames")

    def _make_room(self, count: int, rows: int, nbytes: int, first_frame: int) -> int:
        """Push out what a chunk will overwrite, and what exceeds the bytes with it.

        Args:
            count, rows, nbytes: of the chunk.
            first_frame: number of the oldest frame it needs.
        """
        oldest = max(self.oldest, self.inserted + count - self.capacity)
        first_kept = self._frames.written + rows - self._frames.capacity
        while self._runs:
            end = self._runs[1][0] if len(self._runs) > 1 else self.inserted
            limit = self._max_frame_bytes
            too_many = limit is not None and self._frames.nbytes + nbytes > limit
            if oldest < end and self._runs[0][1] >= first_kept and not too_many:
                break
            self._runs.popleft()
            oldest = max(oldest, end)
            needed = self._runs[0][1] if self._runs else first_frame
            self._frames.forget(min(needed, first_frame))
        self._frames.forget(min(max(first_kept, 0), first_frame))
        evicted = oldest - self.oldest
        if evicted:
            for places in self._slots_of(self.oldest, evicted):
                times_sampled = self._times_sampled[places]
                self.evicted_unsampled += len(times_sampled) - int(np.count_nonzero(times_sampled))
            # The chunk itself sets the leaves of the slots it takes.
            empty = max(self.oldest, self.inserted + count - self.capacity)
            if empty < oldest:
                self._tree.set(
                    np.arange(empty, oldest) % self.capacity, np.zeros(oldest - empty), checked=True
                )
            self.oldest = oldest
        return evicted

    def _accepted(self, priority: Array | None, count: int) -> Array:
        """Priorities for new items: those given where they are numbers, else the maximum seen."""
        if priority is None:
            return np.full(count, self._max_priority)
        accepted = priority.astype(np.float64)
        low, high = float(accepted.min()), float(accepted.max())
        if low >= 0 and high < math.inf:  # NaN compares as false
            self._max_priority = max(self._max_priority, high)
            return accepted
        good = np.isfinite(accepted) & (accepted >= 0)
        self.refused += int((~good).sum())
        if good.any():
            self._max_priority = max(self._max_priority, float(accepted[good].max()))
        accepted[~good] = self._max_priority
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

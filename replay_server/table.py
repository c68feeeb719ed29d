"""The storage of one shard: frames once, numbers for the rest, priorities in a tree.

An item's key is the number of items inserted before it, its slot is `key % capacity`. Keys from
`oldest` up to `inserted` are live. Frames lie in a ring of their own; an item holds the ring rows
of the frames in its two stacks, so a stack can cross neither an episode nor the write pointer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from common.types import PAD, Array, Chunk, FrameSpec, Sample, ShardSummary
from replay_server.sum_tree import SumTree

PRIORITY_FLOOR = 1e-6
"""Added to every priority, so that an item without TD error keeps a chance (Schaul et al. 2016)."""


@dataclass(slots=True)
class UpdateCounts:
    """What became of priority updates: applied, too late (stale), or no number at all (refused)."""

    applied: int
    stale: int
    refused: int


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

        Raises:
            ValueError: a size below 1, or alpha outside [0, 1].
        """
        for name, value in (
            ("capacity", capacity),
            ("frame_capacity", frame_capacity),
            ("stack", stack),
        ):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha}: must be between 0 and 1")
        self.capacity = capacity
        self.frame_capacity = frame_capacity
        self.alpha = alpha
        self.shard = shard
        self.incarnation = incarnation
        self.inserted = 0
        self.oldest = 0  # key of the oldest live item
        self.sampled = 0
        self.stale = 0
        self.refused = 0
        self._rng = rng
        self._tree = SumTree(capacity)
        self._max_priority = 1.0
        self._stack = stack
        # One row more than the ring: the frame of zeros that `PAD` stands for.
        self._frames: Array = np.zeros((frame_capacity + 1, *frame.shape), frame.dtype)
        self._frames_written = 0
        self._observation: Array = np.zeros((capacity, stack), np.int32)
        self._next_observation: Array = np.zeros((capacity, stack), np.int32)
        self._action: Array = np.zeros(capacity, np.int32)
        self._reward: Array = np.zeros(capacity, np.float32)
        self._discount: Array = np.zeros(capacity, np.float32)
        self._version: Array = np.zeros(capacity, np.int64)
        # (first key, first frame) of every chunk that may still hold live items, oldest first.
        self._chunks: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Live items."""
        return self.inserted - self.oldest

    @property
    def evicted(self) -> int:
        """Items ever pushed out."""
        return self.oldest

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays when full."""
        columns = (
            self._frames,
            self._observation,
            self._next_observation,
            self._action,
            self._reward,
            self._discount,
            self._version,
        )
        return sum(column.nbytes for column in columns) + self._tree.nbytes

    def can_sample(self, count: int) -> bool:
        """Whether the memory holds `count` items or more."""
        return len(self) >= count

    def insert(self, chunk: Chunk) -> int:
        """Copy a chunk in; the oldest items make room. Work grows with the chunk, not the table.

        An item without a priority, or with one that is no number, gets the greatest one seen.

        Returns:
            How many items were pushed out.

        Raises:
            ValueError: a chunk larger than the table, or stacks that name frames it lacks.
        """
        count, frames = len(chunk), len(chunk.frames)
        self._check_chunk(chunk)
        if count == 0:
            return 0
        evicted = self._make_room(count, frames)

        rows = (self._frames_written + np.arange(frames)) % self.frame_capacity
        self._write_frames(chunk.frames)
        # One more entry: PAD is −1, which indexes it.
        rows = np.append(rows, self.frame_capacity).astype(np.int32)
        keys = np.arange(self.inserted, self.inserted + count)
        slots = keys % self.capacity
        self._observation[slots] = rows[chunk.observation]
        self._next_observation[slots] = rows[chunk.next_observation]
        self._action[slots] = chunk.action
        self._reward[slots] = chunk.reward
        self._discount[slots] = chunk.discount
        self._version[slots] = chunk.version
        self._tree.set(slots, self._mass(self._accepted(chunk.priority, count)))
        self._chunks.append((self.inserted, self._frames_written))
        self._frames_written += frames
        self.inserted += count
        return evicted

    def sample(self, count: int) -> Sample:
        """Draw `count` items, each independently and in proportion to its mass.

        Raises:
            ValueError: the table is empty.
        """
        if count > 0 and self._tree.total <= 0:
            raise ValueError("cannot sample from an empty table")
        total = self._tree.total
        points = self._rng.random(count) * total
        # random() < 1, but the product may round up to total itself.
        slots = self._tree.find(np.minimum(points, np.nextafter(total, 0)))
        self.sampled += count
        key = self._key_of(slots)
        both = np.concatenate((self._observation[slots], self._next_observation[slots]))
        needed, numbers = np.unique(both, return_inverse=True)
        numbers = numbers.reshape(both.shape).astype(np.int32)
        return Sample(
            frames=self._frames[needed],
            observation=numbers[:count],
            next_observation=numbers[count:],
            action=self._action[slots],
            reward=self._reward[slots],
            discount=self._discount[slots],
            key=key,
            probability=self._tree.get(slots) / total if count else np.zeros(0),
            age=self.inserted - key,
            version=self._version[slots],
            summary=self.summary(),
        )

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
            applied=int(use.sum()),
            stale=int((~live).sum()),
            refused=int((live & ~good).sum()),
        )
        self.stale += counts.stale
        self.refused += counts.refused
        if counts.applied:
            accepted = priorities[use].astype(np.float64)
            self._max_priority = max(self._max_priority, float(accepted.max()))
            self._tree.set(keys[use] % self.capacity, self._mass(accepted))
        return counts

    def summary(self) -> ShardSummary:
        """Sizes and counters as they are now."""
        return ShardSummary(
            shard=self.shard,
            incarnation=self.incarnation,
            total=self._tree.total,
            size=len(self),
            inserted=self.inserted,
            sampled=self.sampled,
            evicted=self.evicted,
            stale=self.stale,
            refused=self.refused,
        )

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold. Slow: for tests."""
        self._tree.check()
        assert 0 <= self.oldest <= self.inserted
        assert len(self) <= self.capacity
        live = np.arange(self.oldest, self.inserted) % self.capacity
        masses = self._tree.get(np.arange(self.capacity))
        assert (masses[live] > 0).all(), "a live item can never be drawn"
        assert np.count_nonzero(masses) == len(live), "a dead item can be drawn"
        rows = np.concatenate((self._observation[live], self._next_observation[live])).ravel()
        assert ((rows >= 0) & (rows <= self.frame_capacity)).all()
        assert not self._frames[self.frame_capacity].any(), "the frame of zeros was written"
        if len(self):
            first_key, first_frame = self._chunks[0]
            assert first_key <= self.oldest
            assert first_frame >= self._frames_written - self.frame_capacity
        else:
            assert not self._chunks

    def _check_chunk(self, chunk: Chunk) -> None:
        count, frames = len(chunk), len(chunk.frames)
        if count > self.capacity or frames > self.frame_capacity:
            raise ValueError(
                f"chunk of {count} transitions and {frames} frames: the table holds "
                f"{self.capacity} and {self.frame_capacity}"
            )
        if chunk.frames.shape[1:] != self._frames.shape[1:]:
            raise ValueError(
                f"frames of shape {chunk.frames.shape[1:]}: must be {self._frames.shape[1:]}"
            )
        if chunk.frames.dtype != self._frames.dtype:
            raise ValueError(f"frames of {chunk.frames.dtype}: must be {self._frames.dtype}")
        for name in ("action", "reward", "discount", "version", "priority"):
            column = getattr(chunk, name)
            if column is not None and column.shape != (count,):
                raise ValueError(f"{name} of shape {column.shape}: must be {(count,)}")
        for numbers in (chunk.observation, chunk.next_observation):
            if numbers.shape != (count, self._stack):
                raise ValueError(f"stacks {numbers.shape}: must be {(count, self._stack)}")
            if numbers.dtype.kind not in "iu":
                raise ValueError(f"stacks of {numbers.dtype}: must be whole numbers")
            if count and (numbers.min() < PAD or numbers.max() >= frames):
                raise ValueError(f"a stack names a frame outside the chunk's {frames}")

    def _make_room(self, count: int, frames: int) -> int:
        """Push out what the next `count` items and `frames` frames will overwrite."""
        first_kept_frame = self._frames_written + frames - self.frame_capacity
        oldest = max(self.oldest, self.inserted + count - self.capacity)
        while self._chunks and self._chunks[0][1] < first_kept_frame:
            self._chunks.popleft()
            oldest = max(oldest, self._chunks[0][0] if self._chunks else self.inserted)
        while len(self._chunks) > 1 and self._chunks[1][0] <= oldest:
            self._chunks.popleft()
        if self._chunks and oldest >= self.inserted:
            self._chunks.clear()
        evicted = oldest - self.oldest
        if evicted:
            gone = np.arange(self.oldest, oldest) % self.capacity
            self._tree.set(gone, np.zeros(evicted))
            self.oldest = oldest
        return evicted

    def _write_frames(self, frames: Array) -> None:
        start = self._frames_written % self.frame_capacity
        head = min(len(frames), self.frame_capacity - start)
        self._frames[start : start + head] = frames[:head]
        self._frames[: len(frames) - head] = frames[head:]

    def _accepted(self, priority: Array | None, count: int) -> Array:
        """Priorities for new items: those given where they are numbers, else the maximum seen."""
        if priority is None:
            return np.full(count, self._max_priority)
        accepted = priority.astype(np.float64)
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
        keys: Array = self.oldest + (slots - self.oldest) % self.capacity
        return keys

"""How long a table keeps frames: while items need them, and while rows and bytes suffice."""

from __future__ import annotations

from collections import deque

import numpy as np

from common.types import Array
from replay_server.frames import FrameStore

MAX_BACKREFERENCE = 0.05
"""Part of the ring that a chunk may reach back over. Frames farther back are written again, because
a frame that is reused keeps all frames written after it, and they would go all at once."""


class FrameRetention:
    """Knows which frames the items need, and forgets the oldest when a chunk needs room.

    Attributes:
        runs: `(first key, first frame)` of runs of items, oldest first, both ascending. The items
            from first key up to the next run's need no frame older than first frame.
        max_bytes: bytes of frames, at the most; None: no limit.
    """

    def __init__(self, frames: FrameStore, max_bytes: int | None) -> None:
        """For an empty store."""
        self.runs: deque[tuple[int, int]] = deque()
        self.max_bytes = max_bytes
        self._frames = frames
        self._max_back = int(frames.capacity * MAX_BACKREFERENCE)

    def fits(self, rows: int, nbytes: int) -> bool:
        """Whether an empty store has room for so many rows and bytes."""
        limit = self.max_bytes
        return rows <= self._frames.capacity and (limit is None or nbytes <= limit)

    def can_reuse(self, first_frame: int, rows: int, nbytes: int) -> bool:
        """Whether a chunk of so many rows and bytes may reuse frames from `first_frame` on."""
        back = self._frames.written - first_frame
        return back <= self._max_back and self.fits(
            back + rows, self._frames.bytes_from(first_frame) + nbytes
        )

    def release(self, oldest: int, inserted: int, rows: int, nbytes: int, first_frame: int) -> int:
        """Forget the oldest frames until a chunk has room.

        Args:
            oldest: key of the oldest item that stays, as far as the number of items goes.
            inserted: key of the next item.
            rows, nbytes: of the chunk.
            first_frame: number of the oldest frame that the chunk needs.

        Returns:
            Key of the oldest item that still has all its frames.
        """
        frames, limit = self._frames, self.max_bytes
        first_kept = frames.written + rows - frames.capacity
        while self.runs:
            end = self.runs[1][0] if len(self.runs) > 1 else inserted
            too_many = limit is not None and frames.nbytes + nbytes > limit
            if oldest < end and self.runs[0][1] >= first_kept and not too_many:
                break
            self.runs.popleft()
            oldest = max(oldest, end)
            needed = self.runs[0][1] if self.runs else first_frame
            frames.forget(min(needed, first_frame))
        frames.forget(min(max(first_kept, 0), first_frame))
        return oldest

    def add(self, first_key: int, first_frame: int) -> None:
        """Items from `first_key` on need frames from `first_frame` on."""
        while self.runs and self.runs[-1][1] > first_frame:  # they reach back farther than that run
            first_key, _ = self.runs.pop()
        self.runs.append((first_key, first_frame))

    def check(self, oldest: int, inserted: int, rows: Array) -> None:
        """Raise AssertionError if a live item lacks a frame, or may lose one before it goes.

        Args:
            oldest, inserted: keys of the oldest live item, and of the next.
            rows: `[L, n]` int64, rows of the frames that each live item needs.
        """
        frames = self._frames
        assert self.max_bytes is None or frames.nbytes <= self.max_bytes
        for column in zip(*self.runs, strict=True):
            assert list(column) == sorted(column)
        if oldest == inserted:
            assert not self.runs
            return
        assert self.runs, "items without a run"
        assert self.runs[0][0] <= oldest
        first_frame = self.runs[0][1]
        assert first_frame >= max(frames.first, frames.written - frames.capacity)
        assert ((rows >= 0) & (rows <= frames.capacity)).all()
        # Distance of each row from the oldest frame that is kept; the row of zeros is outside.
        behind = (rows - first_frame) % frames.capacity
        is_frame = rows != frames.capacity
        assert (behind < frames.written - first_frame)[is_frame].all(), "a frame is gone"
        first_keys, first_frames = np.array(self.runs, np.int64).T
        runs = np.searchsorted(first_keys, np.arange(oldest, inserted), "right") - 1
        kept_from = (first_frames[runs] - first_frame)[:, None]
        assert (behind >= kept_from)[is_frame].all(), "a frame goes before its item"

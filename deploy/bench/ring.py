"""The limit of a replay memory: plain arrays of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.types import Array, Chunk, FrameSpec
from deploy.bench.replay_inputs import (
    BATCH,
)


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
        self._stacks[0, places] = (self._written + chunk["observation"]) % self._capacity
        self._stacks[1, places] = (self._written + chunk["next_observation"]) % self._capacity
        names = ("action", "reward", "discount", "version")
        values = [chunk.columns[name] for name in names]
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

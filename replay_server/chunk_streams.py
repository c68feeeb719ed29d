"""Streams of chunks: the frames that an actor's next chunk may reuse."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from common.types import Array, Chunk


class ChunkStreams:
    """The newest chunk of each stream, and the frames that it named.

    Attributes:
        newest: by stream, the number of its newest chunk and the number in the store of every frame
            that the chunk named.
    """

    def __init__(self) -> None:
        """No stream yet."""
        self.newest: dict[int, tuple[int, Array]] = {}

    def resolve(self, chunk: Chunk, first_frame: int) -> tuple[Array, int] | None:
        """Numbers in the store of the frames that a chunk reuses, `[R]` int64, and the least.

        Args:
            chunk: reuses at least one frame.
            first_frame: number of the oldest frame in the store.

        Returns:
            None if the store lacks the frames, or the chunk does not follow its stream's newest.
        """
        number, named = self.newest.get(chunk.stream, (None, chunk.reused))
        if number == chunk.number - 1:
            with suppress(IndexError):
                # Negative numbers, read as unsigned, are too large: one test serves for both.
                reused: Array = named.take(chunk.reused.view(np.uint32))
                first = int(reused.min())
                if first >= first_frame:
                    return reused, first
        return None

    def advance(self, chunk: Chunk, numbers: Array) -> None:
        """Make `chunk` the newest of its stream; it named the frames `numbers`."""
        self.newest[chunk.stream] = (chunk.number, numbers)

    def clear(self) -> None:
        """Forget all streams: each must start again with a chunk that reuses no frame."""
        self.newest.clear()

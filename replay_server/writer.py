"""ReplayWriter: sends the chunks of an actor to the shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from common.errors import RemoteDiedError
from common.handles import Future, Handle
from common.types import Chunk, PackedFrames
from replay_server.codec import Codec
from replay_server.messages import encode_chunk

CHUNKS_PER_TURN = 16
"""Chunks to one shard before the turn of the next. The first chunk of a turn brings all its frames,
the others only new frames. The turns are short enough that the shards fill evenly."""


class ReplayWriter:
    """Sends chunks to the shards in turn, with a bounded number in flight.

    At the bound it waits for the oldest chunk, so that back-pressure reaches the environment loop
    and nothing piles up. It skips a shard that died until `reconnect` brings its replacement; the
    chunks in flight to the dead shard are gone.

    Attributes:
        accepted: transitions stored since `take_accepted`.
        orphaned: transitions refused because the shard lacked frames that they reuse.
        dropped: transitions lost because their shard, or every shard, was dead.
        unreachable: indices of shards that died; see `reconnect`.
        wait_s: seconds spent waiting for shards.
    """

    def __init__(
        self,
        shards: Sequence[Handle],
        max_in_flight: int,
        stream: int = 0,
        incarnation: int = 0,
        codec: Codec | None = None,
    ) -> None:
        """Nothing sent yet.

        Args:
            shards: of the memory.
            max_in_flight: chunks in flight, at the most.
            stream: the actor's index; actors start with different shards by it.
            incarnation: of the actor: its chunks do not continue those of an earlier one.
            codec: compresses the frames, if the shards keep them compressed.
        """
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight={max_in_flight}: must be at least 1")
        self._shards = list(shards)
        self._max_in_flight = max_in_flight
        self._codec = codec
        self._stream = stream
        self._number = incarnation << 32
        # Each incarnation begins with another shard, so that short-lived ones fill all evenly.
        self._shard = (stream + incarnation) % len(self._shards)
        self._sent_in_turn = 0
        # Of each chunk: how many transitions, its shard, and the result.
        self._in_flight: deque[tuple[int, int, Handle, Future[int]]] = deque()
        self.accepted = 0
        self.orphaned = 0
        self.dropped = 0
        self.unreachable: set[int] = set()
        self.wait_s = 0.0

    @property
    def in_flight(self) -> int:
        """Chunks sent and not yet known to be stored."""
        return len(self._in_flight)

    @property
    def continues(self) -> bool:
        """Whether the next chunk may reuse frames of the one before it."""
        return self._sent_in_turn > 0

    def write(self, chunk: Chunk) -> None:
        """Send a chunk; waits while too many are in flight. Raises the error of an earlier insert.

        Args:
            chunk: reuses frames of the previous chunk only if `continues` is true. This method
                sets its stream and number.
        """
        assert self.continues or not len(chunk.reused)
        if len(self.unreachable) == len(self._shards):  # no shard to wait for
            self.dropped += len(chunk)
            return
        self._number += 1
        chunk = replace(chunk, stream=self._stream, number=self._number)
        if self._codec is not None:
            assert not isinstance(chunk.frames, PackedFrames)
            chunk.frames = self._codec.pack(chunk.frames)
        index = self._shard
        self._sent_in_turn += 1
        if self._sent_in_turn == CHUNKS_PER_TURN and len(self._shards) > 1:
            self._next_turn()
        # After the end of the turn: a result that arrives here may demand a new turn.
        while len(self._in_flight) >= self._max_in_flight:
            self._settle()
        shard = self._shards[index]
        self._in_flight.append(
            (len(chunk), index, shard, shard.call("insert", encode_chunk(chunk)))
        )

    def reconnect(self, index: int, shard: Handle) -> None:
        """Use this shard in place of shard `index` from now on."""
        self._shards[index] = shard
        self.unreachable.discard(index)
        if index == self._shard or self._shard in self.unreachable:
            self._shard, self._sent_in_turn = index, 0

    def flush(self) -> None:
        """Wait until every chunk sent is stored."""
        while self._in_flight:
            self._settle()

    def take_accepted(self) -> int:
        """Transitions stored since the last call, as far as known; does not wait."""
        while self._in_flight and self._in_flight[0][-1].done():
            self._settle()
        accepted, self.accepted = self.accepted, 0
        return accepted

    def take_dropped(self) -> int:
        """Transitions dropped since the last call, as far as known."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def _settle(self) -> None:
        start = time.perf_counter()
        sent, index, shard, future = self._in_flight.popleft()
        try:
            accepted = future.result()
        except RemoteDiedError:
            self.dropped += sent
            if self._shards[index] is shard:  # not replaced in the meantime
                self._mark_unreachable(index)
            return
        finally:
            self.wait_s += time.perf_counter() - start
        self.accepted += accepted
        if accepted < sent:  # the shard lacks reused frames: the next chunk brings all of its own
            self.orphaned += sent - accepted
            self._sent_in_turn = 0

    def _mark_unreachable(self, index: int) -> None:
        self.unreachable.add(index)
        if index == self._shard:
            self._next_turn()

    def _next_turn(self) -> None:
        """Begin a turn with the next shard that is reachable."""
        self._sent_in_turn = 0
        for _ in self._shards:
            self._shard = (self._shard + 1) % len(self._shards)
            if self._shard not in self.unreachable:
                return

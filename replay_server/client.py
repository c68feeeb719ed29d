"""The two ends that talk to the shards: ReplayWriter (actors), ReplaySampler (learner)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace

import numpy as np

from common.errors import EmptyMemoryError, RemoteDiedError
from common.handles import Future, Handle
from common.types import Array, Chunk, PackedFrames, Sample, ShardSummary
from replay_server.codec import Codec
from replay_server.messages import decode_sample, encode_chunk

CHUNKS_PER_TURN = 16
"""Chunks to one shard before it is the next one's turn: the first of a turn brings all its frames,
those that follow only what is new. Few enough that shards fill evenly."""


class ReplayWriter:
    """Sends chunks to the shards in turn, with a bounded number under way.

    When the bound is reached it waits for the oldest: back-pressure reaches the environment loop
    and nothing piles up. A shard that died is left out until another one takes its place; what was
    on its way there is gone.

    Attributes:
        accepted: transitions stored, since that was last taken.
        orphaned: transitions refused because the shard lacked frames that they reuse.
        dropped: transitions that no shard took because it was, or all were, dead.
        lost: indices of shards that died; see `reconnect`.
        wait_s: seconds spent waiting for answers.
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
            max_in_flight: chunks under way, at the most.
            stream: the actor's index; with it actors start with different shards.
            incarnation: the actor's: its chunks do not continue those of an earlier life.
            codec: compresses the frames, if the shards keep them compressed.
        """
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight={max_in_flight}: must be at least 1")
        self._shards = list(shards)
        self._max_in_flight = max_in_flight
        self._codec = codec
        self._stream = stream
        self._number = incarnation << 32
        # Lives may be short: each begins elsewhere, so that shards fill evenly all the same.
        self._shard = (stream + incarnation) % len(self._shards)
        self._sent_in_turn = 0
        # Of each chunk: its transitions, its shard, and the answer.
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
        """Send a chunk; waits while too many are under way. Raises what an insert raised.

        Args:
            chunk: reuses frames of the chunk before only if `continues` says so. Its stream and
                number are set here.
        """
        assert self.continues or not len(chunk.reused)
        if len(self.unreachable) == len(self._shards):  # nobody is there to wait for
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
        # After the turn is settled: an answer waited for here may say that a new one must begin.
        while len(self._in_flight) >= self._max_in_flight:
            self._settle()
        shard = self._shards[index]
        self._in_flight.append(
            (len(chunk), index, shard, shard.call("insert", encode_chunk(chunk)))
        )

    def reconnect(self, index: int, shard: Handle) -> None:
        """Send to this shard from now on what is shard `index`'s."""
        self._shards[index] = shard
        self.unreachable.discard(index)
        if index == self._shard or self._shard in self.unreachable:
            self._shard, self._sent_in_turn = index, 0

    def flush(self) -> None:
        """Wait until everything sent is stored."""
        while self._in_flight:
            self._settle()

    def take_accepted(self) -> int:
        """Transitions known to be stored since this was last asked; waits for none."""
        while self._in_flight and self._in_flight[0][-1].done():
            self._settle()
        accepted, self.accepted = self.accepted, 0
        return accepted

    def take_dropped(self) -> int:
        """Transitions known to be dropped since this was last asked."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def _settle(self) -> None:
        start = time.perf_counter()
        sent, index, shard, answer = self._in_flight.popleft()
        try:
            accepted = answer.result()
        except RemoteDiedError:
            self.dropped += sent
            if self._shards[index] is shard:  # not replaced meanwhile
                self._lose(index)
            return
        finally:
            self.wait_s += time.perf_counter() - start
        self.accepted += accepted
        if accepted < sent:  # the shard lacks frames that the chunk reuses: send all with the next
            self.orphaned += sent - accepted
            self._sent_in_turn = 0

    def _lose(self, index: int) -> None:
        self.unreachable.add(index)
        if index == self._shard:
            self._next_turn()

    def _next_turn(self) -> None:
        """Begin a turn with the next shard that is there."""
        self._sent_in_turn = 0
        for _ in self._shards:
            self._shard = (self._shard + 1) % len(self._shards)
            if self._shard not in self.unreachable:
                return


@dataclass(slots=True)
class Round:
    """Several batches drawn together from all shards.

    Attributes:
        samples: one per shard that was drawn from.
        rows: `[batches, B]` int64: row of each batch's items in the samples laid end to end.
        weights: `[batches, B]` float32, importance weights, the greatest of each batch being 1.
        ages: `[batches, B]` int64, inserts over all shards since each item's own.
    """

    samples: list[Sample]
    rows: Array
    weights: Array
    ages: Array

    def release(self) -> None:
        """Let go of the messages the samples lie in, once they are on the device.

        One view pins the whole message in Ray's shared memory. Keys, versions and summaries stay:
        priorities and statistics need them.
        """
        for sample in self.samples:
            for field in fields(sample):
                column = getattr(sample, field.name)
                if field.name in ("key", "version"):
                    setattr(sample, field.name, np.array(column))
                elif field.name != "summary":
                    setattr(sample, field.name, np.array(column[:0]))


class ReplaySampler:
    """Draws batches from the whole memory as if it were one table.

    Every shard tells its total mass with each answer. A draw first picks a shard in proportion to
    those totals, then an item in proportion to its mass within the shard: P(i) is the item's share
    of the whole memory. Totals known here are as old as the requests under way; importance weights
    use the probability that an item really had, so they are exact all the same.
    """

    def __init__(
        self,
        shards: Sequence[Handle],
        batch_size: int,
        batches_per_round: int,
        rounds_in_flight: int,
        beta: float,
        rng: np.random.Generator,
    ) -> None:
        """Nothing is asked for before the first `next_round`.

        Args:
            shards: of the memory.
            batch_size: B.
            batches_per_round: batches asked for in one message.
            rounds_in_flight: messages under way per shard, the one waited for included.
            beta: exponent of importance weights.
            rng: for choosing shards.
        """
        self._shards = list(shards)
        self._batch_size = batch_size
        self._batches = batches_per_round
        self._window = rounds_in_flight
        self._beta = beta
        self._rng = rng
        self._rounds: deque[tuple[Array, Array, list[tuple[int, Future[Array]]]]] = deque()
        self._updates: deque[list[Future[None]]] = deque()
        self._summaries: dict[int, ShardSummary] = {}  # of the shards that are there
        self.unreachable: set[int] = set()
        self.wait_s = 0.0

    @property
    def in_flight(self) -> int:
        """Rounds asked for and not yet taken."""
        return len(self._rounds)

    @property
    def summaries(self) -> list[ShardSummary]:
        """The newest summary of each shard that is there."""
        return [self._summaries[index] for index in sorted(self._summaries)]

    def reconnect(self, index: int, shard: Handle) -> None:
        """Draw from this shard from now on what is shard `index`'s."""
        self._shards[index] = shard
        self.unreachable.discard(index)
        self._summaries.pop(index, None)
        # Rounds under way were asked of the one before; their masses hold no longer.
        self._rounds.clear()

    def next_round(self) -> Round:
        """The next round, and a request for one to come in its place.

        A shard that died is left out (`lost`) until another one takes its place: what is drawn is
        then drawn from all items that are there.

        Raises:
            EmptyMemoryError: nothing in any shard that is there.
        """
        while True:
            if not any(summary.total > 0 for summary in self._summaries.values()):
                self._ask_for_summaries(range(len(self._shards)))
            missing = set(range(len(self._shards))) - self._summaries.keys() - self.unreachable
            self._ask_for_summaries(sorted(missing))
            while len(self._rounds) < self._window:
                self._request()
            chosen, shares, answers = self._rounds.popleft()
            start = time.perf_counter()
            samples: list[Sample] = []
            for index, answer in answers:
                try:
                    samples.append(decode_sample(answer.result()))
                except RemoteDiedError:
                    self._lose(index)
            self.wait_s += time.perf_counter() - start
            if len(samples) < len(answers):
                continue  # what was drawn there is missing from every batch of the round
            for (index, _), sample in zip(answers, samples, strict=True):
                self._summaries[index] = sample.summary
            return self._assemble(chosen, shares, samples)

    def _ask_for_summaries(self, indices: Iterable[int]) -> None:
        asked = [(i, self._shards[i].call("summary")) for i in indices if i not in self.unreachable]
        for index, answer in asked:
            try:
                self._summaries[index] = answer.result()
            except RemoteDiedError:
                self._lose(index)

    def _lose(self, index: int) -> None:
        self.unreachable.add(index)
        self._summaries.pop(index, None)
        self._rounds.clear()

    def update_priorities(self, round_: Round, priorities: Array) -> None:
        """Send the new priorities of a whole round back to the shards it came from.

        Waits for the answers of rounds before, so that updates under way stay bounded.

        Args:
            round_: as `next_round` returned it.
            priorities: `[batches, B]`.
        """
        flat = np.empty(round_.rows.size)
        flat[round_.rows.ravel()] = priorities.ravel()
        calls: list[Future[None]] = []
        begin = 0
        for sample in round_.samples:
            end = begin + len(sample.key)
            if end > begin:
                shard = self._shards[sample.summary.shard]
                incarnation = sample.summary.incarnation
                calls.append(
                    shard.call("update_priorities", sample.key, flat[begin:end], incarnation)
                )
            begin = end
        self._updates.append(calls)
        while len(self._updates) > self._window:
            for call in self._updates.popleft():
                with suppress(RemoteDiedError):  # seen when it is drawn from
                    call.result()

    def _request(self) -> None:
        totals = np.zeros(len(self._shards))
        for index, summary in self._summaries.items():
            totals[index] = summary.total
        if not totals.sum() > 0:
            raise EmptyMemoryError("cannot sample: no shard holds anything")
        shares = totals / totals.sum()
        chosen = self._rng.choice(len(shares), size=self._batches * self._batch_size, p=shares)
        counts = np.bincount(chosen, minlength=len(shares))
        # A shard that is not drawn from is asked all the same: its total may have grown.
        answers = [
            (index, self._shards[index].call("sample", int(counts[index])))
            for index in sorted(self._summaries)
        ]
        self._rounds.append((chosen, shares, answers))

    def _assemble(self, chosen: Array, shares: Array, samples: list[Sample]) -> Round:
        # Items of shard s lie end to end in the order drawn; the j-th draw that chose s gets its
        # j-th item. A stable sort of the choices is just that pairing.
        order = np.empty(len(chosen), np.int64)
        order[np.argsort(chosen, kind="stable")] = np.arange(len(chosen))
        rows = order.reshape(self._batches, self._batch_size)
        probability = np.concatenate(
            [sample.probability * shares[sample.summary.shard] for sample in samples]
        )
        size = sum(sample.summary.size for sample in samples)
        weights = (size * probability[rows]) ** -self._beta
        weights /= weights.max(axis=1, keepdims=True)
        # A shard sees its own inserts only; over the whole memory an item is older by as much as
        # the other shards took in meanwhile, which is in proportion.
        inserted = sum(sample.summary.inserted for sample in samples)
        ages = np.concatenate([s.age * (inserted / max(1, s.summary.inserted)) for s in samples])
        return Round(
            samples=samples,
            rows=rows,
            weights=weights.astype(np.float32),
            ages=ages[rows].astype(np.int64),
        )

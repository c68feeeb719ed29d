"""ReplaySampler: draws batches for the learner from all shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from common.errors import EmptyMemoryError, RemoteDiedError
from common.handles import Future, Handle
from common.types import Array, Sample, ShardSummary
from replay_server.messages import decode_sample


@dataclass(slots=True)
class BatchGroup:
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
        """Release the memory of the messages that the samples came in, once they are on the device.

        One view pins its whole message in Ray's shared memory. Keys, versions and summaries stay,
        because priorities and statistics need them.
        """
        for sample in self.samples:
            sample.key = np.array(sample.key)
            for name in ("frames", "probability", "age"):
                setattr(sample, name, np.array(getattr(sample, name)[:0]))
            for name, column in sample.columns.items():
                sample.columns[name] = np.array(column if name == "version" else column[:0])


class ReplaySampler:
    """Draws batches from the whole memory as if it were one table.

    Every shard sends its total mass with each sample. A draw first picks a shard in proportion to
    those totals, then an item in proportion to its mass within the shard: P(i) is the item's share
    of the whole memory. The totals known here are as old as the requests in flight. Importance
    weights use the probability that each item really had, so they are exact nevertheless.

    Attributes:
        beta: exponent of importance weights, for the next group.
    """

    def __init__(
        self,
        shards: Sequence[Handle],
        batch_size: int,
        batches_per_group: int,
        groups_in_flight: int,
        beta: float,
        rng: np.random.Generator,
    ) -> None:
        """Sends no request before the first `next_group`.

        Args:
            shards: of the memory.
            batch_size: B.
            batches_per_group: batches requested in one message.
            groups_in_flight: messages in flight per shard, including the one waited for.
            beta: exponent of importance weights.
            rng: for choosing shards.
        """
        self._shards = list(shards)
        self._batch_size = batch_size
        self._batches = batches_per_group
        self._window = groups_in_flight
        self.beta = beta
        self._rng = rng
        self._groups: deque[tuple[Array, Array, list[tuple[int, Future[Array]]]]] = deque()
        self._updates: deque[list[Future[None]]] = deque()
        self._summaries: dict[int, ShardSummary] = {}  # of the reachable shards
        self.unreachable: set[int] = set()
        self.wait_s = 0.0

    @property
    def in_flight(self) -> int:
        """Batch groups requested and not yet taken."""
        return len(self._groups)

    @property
    def summaries(self) -> list[ShardSummary]:
        """The newest summary of each reachable shard."""
        return [self._summaries[index] for index in sorted(self._summaries)]

    def reconnect(self, index: int, shard: Handle) -> None:
        """Use this shard in place of shard `index` from now on."""
        self._shards[index] = shard
        self.unreachable.discard(index)
        self._summaries.pop(index, None)
        # The groups in flight were requested of its predecessor; their masses are no longer valid.
        self._groups.clear()

    def next_group(self) -> BatchGroup:
        """The next batch group; requests another one to follow.

        It skips a shard that died (`unreachable`) until `reconnect` brings its replacement, and
        draws from all items of the reachable shards.

        Raises:
            EmptyMemoryError: no reachable shard holds an item.
        """
        while True:
            if not any(summary.total > 0 for summary in self._summaries.values()):
                self._fetch_summaries(range(len(self._shards)))
            missing = set(range(len(self._shards))) - self._summaries.keys() - self.unreachable
            self._fetch_summaries(sorted(missing))
            while len(self._groups) < self._window:
                self._request()
            chosen, shares, requests = self._groups.popleft()
            start = time.perf_counter()
            samples: list[Sample] = []
            for index, future in requests:
                try:
                    samples.append(decode_sample(future.result()))
                except RemoteDiedError:
                    self._mark_unreachable(index)
            self.wait_s += time.perf_counter() - start
            if len(samples) < len(requests):
                continue  # every batch of the group lacks the items drawn there
            for (index, _), sample in zip(requests, samples, strict=True):
                self._summaries[index] = sample.summary
            return self._assemble(chosen, shares, samples)

    def _fetch_summaries(self, indices: Iterable[int]) -> None:
        futures = [
            (i, self._shards[i].call("summary")) for i in indices if i not in self.unreachable
        ]
        for index, future in futures:
            try:
                self._summaries[index] = future.result()
            except RemoteDiedError:
                self._mark_unreachable(index)

    def _mark_unreachable(self, index: int) -> None:
        self.unreachable.add(index)
        self._summaries.pop(index, None)
        self._groups.clear()

    def update_priorities(self, group: BatchGroup, priorities: Array) -> None:
        """Send the new priorities of a whole batch group to the shards that it came from.

        Waits for the updates of earlier groups, so that updates in flight stay bounded.

        Args:
            group: as `next_group` returned it.
            priorities: `[batches, B]`.
        """
        flat = np.empty(group.rows.size)
        flat[group.rows.ravel()] = priorities.ravel()
        calls: list[Future[None]] = []
        begin = 0
        for sample in group.samples:
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
                with suppress(RemoteDiedError):  # the next draw from it finds out
                    call.result()

    def _request(self) -> None:
        totals = np.zeros(len(self._shards))
        for index, summary in self._summaries.items():
            totals[index] = summary.total
        if not totals.sum() > 0:
            raise EmptyMemoryError("cannot sample: no reachable shard holds an item")
        shares = totals / totals.sum()
        chosen = self._rng.choice(len(shares), size=self._batches * self._batch_size, p=shares)
        counts = np.bincount(chosen, minlength=len(shares))
        # A shard without draws gets a request too: its total may have grown.
        requests = [
            (index, self._shards[index].call("sample", int(counts[index])))
            for index in sorted(self._summaries)
        ]
        self._groups.append((chosen, shares, requests))

    def _assemble(self, chosen: Array, shares: Array, samples: list[Sample]) -> BatchGroup:
        # Items of shard s lie end to end in the order drawn; the j-th draw that chose s gets its
        # j-th item. A stable sort of the choices is just that pairing.
        order = np.empty(len(chosen), np.int64)
        order[np.argsort(chosen, kind="stable")] = np.arange(len(chosen))
        rows = order.reshape(self._batches, self._batch_size)
        probability = np.concatenate(
            [sample.probability * shares[sample.summary.shard] for sample in samples]
        )
        size = sum(sample.summary.size for sample in samples)
        weights = (size * probability[rows]) ** -self.beta
        weights /= weights.max(axis=1, keepdims=True)
        # A shard counts its own inserts only. Over the whole memory an item is older, in
        # proportion to the inserts of all shards.
        inserted = sum(sample.summary.inserted for sample in samples)
        ages = np.concatenate([s.age * (inserted / max(1, s.summary.inserted)) for s in samples])
        return BatchGroup(
            samples=samples,
            rows=rows,
            weights=weights.astype(np.float32),
            ages=ages[rows].astype(np.int64),
        )

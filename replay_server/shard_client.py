"""Typed calls of a shard, which may live in another process."""

from __future__ import annotations

from dataclasses import dataclass

from common.checkpoint import Files
from common.handles import Future, Handle
from common.types import Array, ShardStatistics, ShardSummary


@dataclass(frozen=True, slots=True)
class ShardClient:
    """Calls the methods of a `ReplayServer` and returns futures of their results."""

    handle: Handle

    def insert(self, buffer: Array) -> Future[int]:
        """See `ReplayServer.insert`."""
        return self.handle.call("insert", buffer)

    def sample(self, count: int) -> Future[Array]:
        """See `ReplayServer.sample`."""
        return self.handle.call("sample", count)

    def update_priorities(self, keys: Array, priorities: Array, incarnation: int) -> Future[None]:
        """See `ReplayServer.update_priorities`."""
        return self.handle.call("update_priorities", keys, priorities, incarnation)

    def summary(self) -> Future[ShardSummary]:
        """See `ReplayServer.summary`."""
        return self.handle.call("summary")

    def statistics(self) -> Future[ShardStatistics]:
        """See `ReplayServer.statistics`."""
        return self.handle.call("statistics")

    def new_attempt(self, incarnation: int) -> Future[None]:
        """See `ReplayServer.new_attempt`."""
        return self.handle.call("new_attempt", incarnation)

    def begin_save(self, url: str, name: str, background: bool) -> Future[None]:
        """See `ReplayServer.begin_save`."""
        return self.handle.call("begin_save", url, name, background)

    def saved(self) -> Future[Files | None]:
        """See `ReplayServer.saved`."""
        return self.handle.call("saved")

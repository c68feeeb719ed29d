"""The memory check: after shards were restored, the replay memory may have to fill up first."""

from __future__ import annotations

from common.errors import RemoteDiedError
from common.handles import Future
from common.types import ShardSummary
from deploy.supervisor.context import Context
from deploy.supervisor.fleet import Fleet


class MemoryCheck:
    """Asks all shards for their sizes when some were restored, and resets the limiter if needed.

    Attributes:
        due: a shard was restored since the last check.
    """

    def __init__(self, context: Context, fleet: Fleet) -> None:
        """A check that is not due."""
        self._context = context
        self._fleet = fleet
        self.due = False
        self._summaries: list[Future[ShardSummary]] = []

    def shard_restored(self) -> None:
        """Make a check due; answers of the incarnation before do not count."""
        self.due = True
        self._summaries.clear()

    def look(self) -> None:
        """Ask for the sizes, or take in the answers, whichever is next."""
        shards = self._fleet.shards
        if not self.due or not all(slot.ready for slot in shards):
            return
        if not self._summaries:
            self._summaries = [slot.client.summary() for slot in shards]
        if not all(summary.done() for summary in self._summaries):
            return  # a shard is busy
        answers, self._summaries = self._summaries, []
        try:
            held = sum(answer.result().size for answer in answers)
        except RemoteDiedError:
            return  # lost again: asked after its next restart
        self.due = False
        if held < self._context.limiter.min_size:
            self._context.limiter.reset(held)

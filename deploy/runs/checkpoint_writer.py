"""CheckpointJob a run: the learner, every shard, and what the supervisor knows, as one checkpoint.

On Ray it is done beside the run, in a thread; each shard writes its own files, in its process.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from common import wire
from common.checkpoint import CheckpointStore, Files
from common.config import CheckpointConfig
from common.handles import Failed, Future, Handle
from common.types import Array
from deploy.runs.checkpoint_schema import FORMAT, shard_file
from common.parts import shard as shard_part
from common.errors import StillSavingError

POLL_S = 0.05
GRACE_S = 5.0
"""How much longer than `checkpoint.timeout_s` a save has to say itself what it waits for."""
ABANDON_S = 60.0
"""How long other shards have to end what they write when one has failed."""


@dataclass(slots=True)
class CheckpointJob:
    """A checkpoint on its way.

    Attributes:
        state: of the run, for `state.json`; the learner's part comes from the learner.
        learner, shards: parts to save. No shards: replay is not saved.
        mark: whatever the one who began it wants back.
        error: why it was not written; None: it was.
        tensors: of the learner.
        remark: what else is to be said of one that was written.
        wall_s: seconds that it took.
    """

    state: dict[str, Any]
    learner: Handle
    shards: list[Handle]
    mark: Any
    error: Exception | None = None
    tensors: dict[str, Array] | None = None
    remark: str | None = None
    wall_s: float = 0.0


class CheckpointWriter:
    """Writes one checkpoint at a time."""

    def __init__(self, store: CheckpointStore, config: CheckpointConfig, beside: bool) -> None:
        """Nothing is under way.

        Args:
            store: where they go.
            config: when.
            beside: write in a thread, while the run goes on. Otherwise the run waits, and the clock
                says nothing about when: it must not decide what is learned.
        """
        self.store = store
        self._config = config
        self._beside = beside
        self._thread: threading.Thread | None = None
        self._saving: CheckpointJob | None = None
        self._late: threading.Thread | None = None  # of one that was given up: it may end yet
        self._late_from_s = 0.0
        self._end_s = math.inf
        self.tried_s = time.monotonic()
        self.tried_steps = 0
        self._tried_transitions: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way, or its outcome was not taken yet."""
        return self._saving is not None

    def due(self, now: float, learner_steps: int, transitions: int = 0) -> bool:
        """Whether one should begin.

        Beside the run, whatever was done is worth saving, learner steps or not: a memory that
        fills up may take hours. In one process only learner steps count.

        Args:
            now: `time.monotonic()`.
            learner_steps: of the run.
            transitions: inserted, likewise.
        """
        if self._tried_transitions is None:  # a run that was resumed has nothing new yet
            self._tried_transitions = transitions
        if self.busy:
            return False
        since = learner_steps - self.tried_steps
        every, every_s = self._config.every_learner_steps, self._config.every_s
        if self._beside and every_s is not None:
            anything = since >= 1 or transitions != self._tried_transitions
            return anything and now - self.tried_s >= every_s
        return every is not None and since >= max(1, every)

    def change(self, config: CheckpointConfig) -> None:
        """Go by another configuration from now on; where they go stays."""
        self._config = config

    def end_by(self, end_s: float) -> None:
        """From `end_s` on (`time.monotonic()`) nothing is waited for any more."""
        self._end_s = end_s

    def begin(self, saving: CheckpointJob, learner_steps: int) -> None:
        """Write a checkpoint; see `take`."""
        assert self._saving is None
        self.tried_s, self.tried_steps = time.monotonic(), learner_steps
        self._tried_transitions = saving.state["counters"].get("transitions", 0)
        self._saving = saving
        if self._late is not None and self._late.is_alive():
            # It cannot be interrupted; two at once would remove each other's files.
            waited_s = self.tried_s - self._late_from_s
            saving.error = self._timeout(f"one that began {waited_s:,.0f} s ago hangs still")
            return
        self._late = None
        if not self._beside:
            self._write(saving)
            return
        self._thread = threading.Thread(
            target=self._write, args=(saving,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def take(self, timeout_s: float = 0.0) -> CheckpointJob | None:
        """The checkpoint that was begun, when it is written or has failed; else None.

        One that takes longer than `checkpoint.timeout_s` has failed.
        """
        if self._thread is not None:
            self._thread.join(max(0.0, min(timeout_s, self._end_s - time.monotonic())))
            if self._thread.is_alive():
                if self._saving is None or time.monotonic() < self._deadline_s + GRACE_S:
                    return None
                self._late, self._late_from_s = self._thread, self.tried_s
                error = self._timeout("the storage does not answer")
                self._saving = replace(self._saving, error=error, tensors=None)
            self._thread = None
        saving, self._saving = self._saving, None
        return saving

    @property
    def _deadline_s(self) -> float:
        limit_s = self._config.timeout_s
        return math.inf if limit_s is None else self.tried_s + limit_s

    def _timeout(self, reason: str) -> TimeoutError:
        return TimeoutError(
            f"{self.store.storage.url}: not written within checkpoint.timeout_s="
            f"{self._config.timeout_s:g}: {reason}"
        )

    def _write(self, saving: CheckpointJob) -> None:
        start = time.perf_counter()
        try:
            self._written(saving)
        except Exception as error:  # the loop hears of it, from whatever thread
            saving.error = error
        saving.wall_s = time.perf_counter() - start

    def _written(self, saving: CheckpointJob) -> None:
        deadline_s = self._deadline_s
        call = saving.learner.call("state")
        buffer: Array = self._answer(call, deadline_s, "the learner does not answer")
        tensors, learner = wire.decode(buffer)
        saving.tensors = tensors
        # The learner may be a call ahead of what was reported; its own count is the checkpoint's.
        steps = int(learner["learner_steps"])
        name = self.store.new_name(steps)
        files = self._save_shards(saving.shards, name, deadline_s)
        state = {
            "format": FORMAT,
            **saving.state,
            "learner": learner,
            "shards": len(saving.shards),
        }
        state["counters"] = {**state["counters"], "learner_steps": steps}
        self.store.commit(name, {"learner": tensors}, state, files)
        if self.store.untidy is not None:
            saving.remark = f"older checkpoints could not be removed: {self.store.untidy}"

    def _save_shards(self, shards: list[Handle], name: str, deadline_s: float) -> Files:
        """Have all shards write their parts, side by side; the files that they have written.

        If one fails, the others are waited for all the same: what they are at would be in the way
        of the next checkpoint.
        """
        files: Files = {}
        failure: Exception | None = None
        begun = [self._begin_shard(shard, index, name) for index, shard in enumerate(shards)]
        for index, (shard, call) in enumerate(zip(shards, begun, strict=True)):
            try:
                files |= self._saved_by(shard, index, name, call, deadline_s)
            except Exception as error:
                failure = failure or error
                deadline_s = min(deadline_s, time.monotonic() + ABANDON_S)
        if failure is not None:
            self.store.discard(name, files)
            raise failure
        return files

    def _begin_shard(self, shard: Handle, index: int, name: str) -> Future[None]:
        url = self.store.storage.url
        try:
            return shard.call("begin_save", url, shard_file(name, index), self._beside)
        except Exception as error:  # inline it is raised here, else by `result`
            return Failed(error)

    def _saved_by(
        self, shard: Handle, index: int, name: str, call: Future[None], deadline_s: float
    ) -> Files:
        title = str(shard_part(index))
        while True:
            try:
                self._answer(call, deadline_s, f"{title} does not answer")
                break
            except StillSavingError:  # at one that was given up
                self._wait(deadline_s, f"{title} is at the one before still")
                call = self._begin_shard(shard, index, name)
        while True:
            written: Files | None = self._answer(
                shard.call("saved"), deadline_s, f"{title} does not answer"
            )
            if written is not None:
                return written
            self._wait(deadline_s, f"{title} is at it still")

    def _answer(self, call: Future[Any], deadline_s: float, reason: str) -> Any:
        """What a call returns, if it returns in time."""
        while deadline_s < math.inf and not call.done():
            self._wait(deadline_s, reason)
        return call.result()

    def _wait(self, deadline_s: float, reason: str) -> None:
        if time.monotonic() >= deadline_s:
            raise self._timeout(reason)
        time.sleep(POLL_S)

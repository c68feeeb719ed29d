"""Writing checkpoints of a run: the learner, every shard, and the supervisor's state.

On Ray a thread writes them in the background; each shard writes its own files, in its process.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from common import wire
from common.checkpoint import CheckpointStore, Files
from common.config_operation import CheckpointConfig
from common.errors import StillSavingError
from common.handles import Failed, Future, Handle
from common.parts import shard as shard_part
from common.types import Array
from deploy.runs.checkpoint_schema import FORMAT, shard_file

POLL_S = 0.05
GRACE_S = 5.0
"""Time beyond `checkpoint.timeout_s` in which the job itself can name the part that timed out."""
ABANDON_S = 60.0
"""Time in which the other shards can finish writing when one has failed."""


def give_back_memory() -> None:
    """Return what the C library holds of freed blocks to the system, where it can (glibc).

    A thread may get a part of memory of its own, which keeps blocks of the size of a learner's
    state: with a thread for each checkpoint a driver grew by 33 MiB in three minutes.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(slots=True)
class CheckpointJob:
    """A checkpoint that is being written.

    Attributes:
        state: of the run, for `state.json`; the learner adds its own part.
        learner, shards: parts to save. Without shards, replay is not saved.
        progress: of the run when the job began; handed back to the caller.
        error: reason of the failure; None: the checkpoint is written.
        name: of the checkpoint, once the learner has answered.
        learner_steps: that the checkpoint holds; the learner may be ahead of `progress`.
        tensors: of the learner.
        remark: a note about a checkpoint that is written.
        wall_s: seconds that the job took.
    """

    state: dict[str, Any]
    learner: Handle
    shards: list[Handle]
    progress: Any
    error: Exception | None = None
    name: str = ""
    learner_steps: int = 0
    tensors: dict[str, Array] | None = None
    remark: str | None = None
    wall_s: float = 0.0


class CheckpointWriter:
    """Runs one checkpoint job at a time.

    Attributes:
        store: of the checkpoints.
        tried_s: `time.monotonic()` when the last job began.
        tried_steps: learner steps when the last job began.
    """

    def __init__(self, store: CheckpointStore, config: CheckpointConfig, background: bool) -> None:
        """A writer without a job.

        Args:
            store: of the checkpoints.
            config: when a checkpoint is due.
            background: write in a thread while the run continues. Otherwise the run waits, and
                `every_s` is ignored: the clock must not influence the results.
        """
        self.store = store
        self._config = config
        self._background = background
        self._thread: threading.Thread | None = None
        self._job: CheckpointJob | None = None
        self._late: threading.Thread | None = None  # of an abandoned job; it may finish yet
        self._late_from_s = 0.0
        self._end_s = math.inf
        self.tried_s = time.monotonic()
        self.tried_steps = 0
        self._tried_transitions: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is in progress, or its outcome has not been taken yet."""
        return self._job is not None

    def due(self, now: float, learner_steps: int, transitions: int = 0) -> bool:
        """Whether a job should begin.

        In the background any progress is worth saving, even without learner steps: the memory may
        take hours to fill. In one process only learner steps count.

        Args:
            now: `time.monotonic()`.
            learner_steps: of the run.
            transitions: number of inserted transitions of the run.
        """
        if self._tried_transitions is None:  # a resumed run has no progress of its own yet
            self._tried_transitions = transitions
        if self.busy:
            return False
        since = learner_steps - self.tried_steps
        every, every_s = self._config.every_learner_steps, self._config.every_s
        if self._background and every_s is not None:
            progress = since >= 1 or transitions != self._tried_transitions
            return progress and now - self.tried_s >= every_s
        return every is not None and since >= max(1, every)

    def change(self, config: CheckpointConfig) -> None:
        """Apply another configuration; the storage stays the same."""
        self._config = config

    def end_by(self, end_s: float) -> None:
        """Let `take` wait no longer than until `end_s` (`time.monotonic()`)."""
        self._end_s = end_s

    def begin(self, job: CheckpointJob, learner_steps: int) -> None:
        """Begin a job; `take` returns it when it is done."""
        assert self._job is None
        self.tried_s, self.tried_steps = time.monotonic(), learner_steps
        self._tried_transitions = job.state["counters"].get("transitions", 0)
        self._job = job
        if self._late is not None and self._late.is_alive():
            # A thread cannot be interrupted, and two jobs would remove each other's files.
            waited_s = self.tried_s - self._late_from_s
            job.error = self._timeout(f"a job that began {waited_s:,.0f} s ago still hangs")
            return
        self._late = None
        if not self._background:
            self._run(job)
            return
        self._thread = threading.Thread(
            target=self._run, args=(job,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def take(self, timeout_s: float = 0.0) -> CheckpointJob | None:
        """The job that was begun, when it is done; None while it is in progress.

        A job that takes longer than `checkpoint.timeout_s` fails.

        Args:
            timeout_s: seconds to wait for it.
        """
        if self._thread is not None:
            self._thread.join(max(0.0, min(timeout_s, self._end_s - time.monotonic())))
            if self._thread.is_alive():
                if self._job is None or time.monotonic() < self._deadline_s + GRACE_S:
                    return None
                self._late, self._late_from_s = self._thread, self.tried_s
                error = self._timeout("the storage timed out")
                self._job = replace(self._job, error=error, tensors=None)
            self._thread = None
        job, self._job = self._job, None
        return job

    @property
    def _deadline_s(self) -> float:
        limit_s = self._config.timeout_s
        return math.inf if limit_s is None else self.tried_s + limit_s

    def _timeout(self, reason: str) -> TimeoutError:
        return TimeoutError(
            f"{self.store.storage.url}: not written within checkpoint.timeout_s="
            f"{self._config.timeout_s:g}: {reason}"
        )

    def _run(self, job: CheckpointJob) -> None:
        start = time.perf_counter()
        try:
            self._write(job)
        except Exception as error:  # `take` hands it to the loop's thread
            job.error = error
        job.wall_s = time.perf_counter() - start
        if self._background:
            give_back_memory()

    def _write(self, job: CheckpointJob) -> None:
        deadline_s = self._deadline_s
        call = job.learner.call("state")
        buffer: Array = self._result(call, deadline_s, "the learner timed out")
        tensors, learner = wire.decode(buffer)
        job.tensors = tensors
        # The learner may be a call ahead of its last report; the checkpoint holds its own count.
        steps = int(learner["learner_steps"])
        name = self.store.new_name(steps)
        job.name, job.learner_steps = name, steps
        files = self._save_shards(job.shards, name, deadline_s)
        state = {"format": FORMAT, **job.state, "learner": learner, "shards": len(job.shards)}
        state["counters"] = {**state["counters"], "learner_steps": steps}
        self.store.commit(name, {"learner": tensors}, state, files)
        if self.store.prune_error is not None:
            job.remark = f"older checkpoints could not be removed: {self.store.prune_error}"

    def _save_shards(self, shards: list[Handle], name: str, deadline_s: float) -> Files:
        """Have all shards write their parts, side by side; the files that they have written.

        If one fails, the others still finish: their writes would disturb the next checkpoint.
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
            return shard.call("begin_save", url, shard_file(name, index), self._background)
        except Exception as error:  # raised here inline, by `result` on Ray
            return Failed(error)

    def _saved_by(
        self, shard: Handle, index: int, name: str, call: Future[None], deadline_s: float
    ) -> Files:
        title = str(shard_part(index))
        while True:
            try:
                self._result(call, deadline_s, f"{title} timed out")
                break
            except StillSavingError:  # of an abandoned job
                self._wait(deadline_s, f"{title} is still writing the previous one")
                call = self._begin_shard(shard, index, name)
        while True:
            written: Files | None = self._result(
                shard.call("saved"), deadline_s, f"{title} timed out"
            )
            if written is not None:
                return written
            self._wait(deadline_s, f"{title} is still writing")

    def _result(self, call: Future[Any], deadline_s: float, reason: str) -> Any:
        """The result of a call, within the deadline."""
        while deadline_s < math.inf and not call.done():
            self._wait(deadline_s, reason)
        return call.result()

    def _wait(self, deadline_s: float, reason: str) -> None:
        if time.monotonic() >= deadline_s:
            raise self._timeout(reason)
        time.sleep(POLL_S)

"""Saving a run: the learner, every shard, and what the supervisor knows, as one checkpoint.

On Ray it is done beside the run, in a thread; each shard writes its own files, in its process.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from common import wire
from common.checkpoint import Checkpoint, CheckpointStore, Files
from common.config import CheckpointConfig, Config
from common.handles import Handle
from common.types import Array, UserError
from replay_server.client import shard_title
from replay_server.saving import ShardOrigin

FORMAT = 2
POLL_S = 0.05
LEARNING_KEYS = ("reward_clip", "life_loss_ends")
"""Keys of `env` that change neither the game nor what is seen of it: a run may change them."""


@dataclass(slots=True)
class Saving:
    """A checkpoint on its way.

    Attributes:
        state: of the run, for `state.json`; the learner's part comes from the learner.
        learner, shards: parts to save. No shards: replay is not saved.
        mark: whatever the one who began it wants back.
        error: why it was not written; None: it was.
        tensors: of the learner.
        wall_s: seconds that it took.
    """

    state: dict[str, Any]
    learner: Handle
    shards: list[Handle]
    mark: Any
    error: Exception | None = None
    tensors: dict[str, Array] | None = None
    wall_s: float = 0.0


class Checkpointer:
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
        self._saving: Saving | None = None
        self.tried_s = time.monotonic()
        self.tried_steps = 0

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way, or its outcome was not taken yet."""
        return self._saving is not None

    def due(self, now: float, learner_steps: int) -> bool:
        """Whether one should begin."""
        since = learner_steps - self.tried_steps
        if since < 1 or self.busy:
            return False
        every, every_s = self._config.every_learner_steps, self._config.every_s
        if self._beside and every_s is not None:
            return now - self.tried_s >= every_s
        return every is not None and since >= every

    def begin(self, saving: Saving, learner_steps: int) -> None:
        """Write a checkpoint; see `take`."""
        assert self._saving is None
        self.tried_s, self.tried_steps = time.monotonic(), learner_steps
        self._saving = saving
        if not self._beside:
            self._write(saving)
            return
        self._thread = threading.Thread(
            target=self._write, args=(saving,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def take(self, timeout_s: float = 0.0) -> Saving | None:
        """The checkpoint that was begun, when it is written or has failed; else None."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return None
            self._thread = None
        saving, self._saving = self._saving, None
        return saving

    def _write(self, saving: Saving) -> None:
        start = time.perf_counter()
        try:
            self._written(saving)
        except Exception as error:  # the loop hears of it, from whatever thread
            saving.error = error
        saving.wall_s = time.perf_counter() - start

    def _written(self, saving: Saving) -> None:
        buffer: Array = saving.learner.call("state").result()
        tensors, learner = wire.decode(buffer)
        saving.tensors = tensors
        # The learner may be a call ahead of what was reported; its own count is the checkpoint's.
        steps = int(learner["learner_steps"])
        url = self.store.storage.url
        name = self.store.new_name(steps)
        files: Files = {}
        try:
            begun = [
                shard.call("begin_save", url, shard_file(name, index), self._beside)
                for index, shard in enumerate(saving.shards)
            ]
            for call in begun:
                call.result()
            for shard in saving.shards:
                while (written := shard.call("saved").result()) is None:
                    time.sleep(POLL_S)
                files |= written
        except Exception:
            self.store.discard(name)
            raise
        state = {
            "format": FORMAT,
            **saving.state,
            "learner": learner,
            "shards": len(saving.shards),
        }
        state["counters"] = {**state["counters"], "learner_steps": steps}
        self.store.commit(name, {"learner": tensors}, state, files)


def shard_file(name: str, index: int) -> str:
    """What the file of a shard is called in checkpoint `name`."""
    return f"{name}/{shard_title(index)}.rdqn"


def shard_origin(checkpoint: Checkpoint, part: int, parts: int) -> ShardOrigin | None:
    """What shard `part` of `parts` begins with; None: nothing was saved of the replay memory."""
    count = checkpoint.state["shards"]
    if not count:
        return None
    names = tuple(shard_file(checkpoint.name, index) for index in range(count))
    return ShardOrigin(checkpoint.url, names, checkpoint.files, part, parts)


def learner_state(checkpoint: Checkpoint) -> Array:
    """What `Learner.state` returned when the checkpoint was made."""
    return wire.encode(checkpoint.tensors["learner"], checkpoint.state["learner"])


def check_origin(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint that was made with another game, another view of it, or another network.

    Raises:
        UserError: names the key and both values.
    """
    wanted_keys = {"counters", "learner", "best_score", "score", "shards", "limiter", "config"}
    state = checkpoint.state
    if (
        state.get("format") != FORMAT
        or wanted_keys - set(state)
        or "learner" not in checkpoint.tensors
    ):
        raise UserError(f"{checkpoint}: is of another version of raydqn")
    saved = state["config"]
    mine, defaults = config.model_dump(mode="json"), Config().model_dump(mode="json")
    keys = [(section, key) for section in ("env", "network") for key in mine[section]]
    for section, key in keys:
        wanted = mine[section][key]
        was = saved[section].get(key, defaults[section][key])  # a key that is newer than it
        if was != wanted and key not in LEARNING_KEYS:
            raise UserError(
                f"{section}.{key}={wanted}: the checkpoint {checkpoint} was made with {was}, "
                f"it is of another {'environment' if section == 'env' else section}"
            )

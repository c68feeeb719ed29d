"""From steps to n-step transitions, for all copies of one actor at once.

Each copy has a timeline of slots. A slot is a frame and, unless that frame is the last of its
episode, the action taken on it with its outcome:

    slot        l        l+1      l+2 (done)  l+3          l+4
    frame       f0       f1       f2          f3 (last)    g0 (first of the next episode)
    action      a0       a1       a2          – ignored    b0

A window starts at every slot with an action, runs for n of them or to the end of the episode, and
becomes exactly one transition: the windows of an episode's last steps are shorter, none is dropped.
"""

from __future__ import annotations

import numpy as np

from actors.priorities import Measure
from common.types import PAD, Array, Chunk, EnvironmentSpec


class NStepAccumulator:
    """Collects slots of N copies and turns complete windows into chunks."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        copies: int,
        n_step: int,
        gamma: float,
        max_slots: int,
        numbers: int,
        measure: Measure,
    ) -> None:
        """An empty timeline.

        Args:
            spec: of the environment. copies: N.
            n_step: rewards summed before bootstrapping. gamma: discount per env step.
            max_slots: vector steps between two `drain`s, at the most.
            numbers: Z, that the network gives for each action.
            measure: of the priorities that transitions begin with.
        """
        self._n = n_step
        self._measure = measure
        self._gamma = gamma
        self._stack = spec.stack
        self._copies = copies
        # Slots that stay after a drain: those of open windows (n), and the rest of their stacks.
        self._carry = n_step + spec.stack - 1
        shape = (max_slots + self._carry + 1, copies)
        self._frames: Array = np.zeros((*shape, *spec.frame.shape), spec.frame.dtype)
        self._action: Array = np.zeros(shape, np.int32)
        self._reward: Array = np.zeros(shape, np.float32)
        self._ended: Array = np.zeros(shape, bool)  # a window may not go past this action
        self._cut: Array = np.zeros(shape, bool)  # … and there is nothing to bootstrap from
        self._acted: Array = np.zeros(shape, bool)  # an action was taken here
        self._emitted: Array = np.zeros(shape, bool)
        self._position: Array = np.zeros(shape, np.int32)  # frames since the episode's first
        self._taken: Array = np.zeros((*shape, numbers), np.float32)
        self._best: Array = np.zeros((*shape, numbers), np.float32)
        self._version: Array = np.zeros(shape, np.int64)
        self._mask: Array | None = None  # packed, as in a chunk
        if spec.masks_actions:
            self._mask = np.zeros((*shape, spec.mask_bytes), np.uint8)
        # The number of each frame in the newest chunk; −1: that chunk does not name it.
        self._sent: Array = np.full(shape, -1, np.int32)
        self._slots = 0

    def __len__(self) -> int:
        """Slots in the timeline."""
        return self._slots

    def append(
        self,
        frames: Array,
        first: Array,
        action: Array,
        taken: Array,
        best: Array,
        version: int,
        reward: Array,
        terminated: Array,
        truncated: Array,
        life_ended: Array,
        ignored: Array,
        legal: Array | None = None,
    ) -> None:
        """Add one slot per copy. All arrays have N rows.

        Args:
            frames: that the agent acted on. first: they open an episode.
            action: the chosen one. taken, best: `[N, Z]`, see `Choice`.
            version: of the weights that chose the action.
            reward, terminated, truncated: outcome of the action.
            life_ended: ends the window like `terminated`, while the episode goes on.
            ignored: the frame was the last of its episode: no action was taken.
            legal: `[N, A]` bool, the legal actions there, if the environment has action masks.
        """
        if self._slots == len(self._action):
            raise RuntimeError("accumulator is full: drain it at least every max_slots steps")
        s = self._slots
        previous = self._position[s - 1] if s else np.zeros(self._copies, np.int32)
        self._frames[s] = frames
        self._position[s] = np.where(first, 0, previous + 1)
        self._action[s] = action
        self._taken[s] = taken
        self._best[s] = best
        self._version[s] = version
        self._reward[s] = reward
        self._cut[s] = terminated | life_ended
        self._ended[s] = terminated | truncated | life_ended
        self._acted[s] = ~ignored
        self._emitted[s] = False
        self._sent[s] = -1
        if self._mask is not None:
            assert legal is not None
            self._mask[s] = np.packbits(legal, axis=1, bitorder="little")
        self._slots += 1

    def cut(self, frames: Array, legal: Array | None = None) -> None:
        """End all windows; no slot follows.

        Args:
            frames: `[N, *frame]` after the last actions. Windows bootstrap from them, as from the
                last frame of a truncated episode.
            legal: as for `append`.
        """
        if not self._slots:
            return
        last = self._slots - 1
        self._ended[last] |= self._acted[last]
        zeros = np.zeros(self._copies)
        none = np.zeros(self._copies, bool)
        self.append(
            frames=frames,
            first=none,
            action=zeros,
            taken=self._taken[last],
            best=self._best[last],  # the network has not seen these frames: the nearest value
            version=0,
            reward=zeros,
            terminated=none,
            truncated=none,
            life_ended=none,
            ignored=~none,
            legal=legal,
        )

    def drain(self, continues: bool = False) -> Chunk | None:
        """All new transitions with a complete window.

        A window is complete when the frame after it is in the timeline. None without any.

        Args:
            continues: the chunk goes to the shard of the previous one: it names the frames of that
                chunk instead of repeating them.
        """
        if not continues:
            self._sent[: self._slots] = -1
        # Windows may start at any slot but the last: that frame has no successor yet.
        starts = self._slots - 1
        if starts < 1:
            return None
        reward = np.zeros((starts, self._copies), np.float64)
        length = np.zeros((starts, self._copies), np.int32)  # steps taken in the window
        running = self._acted[:starts].copy()
        terminal = np.zeros((starts, self._copies), bool)
        for k in range(min(self._n, starts)):
            here = running[: starts - k]  # windows still open at their k-th step
            step = slice(k, starts)
            reward[: starts - k] += np.where(here, self._gamma**k * self._reward[step], 0.0)
            length[: starts - k] += here
            terminal[: starts - k] |= here & self._cut[step]
            here &= ~self._ended[step]
        complete = (length == self._n) | (~running & (length > 0))
        emit = complete & ~self._emitted[:starts]
        self._emitted[:starts] |= complete
        slot, copy = np.nonzero(emit)
        chunk = self._chunk(slot, copy, reward, length, terminal) if len(slot) else None
        self._discard()
        return chunk

    def _chunk(
        self, slot: Array, copy: Array, reward: Array, length: Array, terminal: Array
    ) -> Chunk:
        after = slot + length[slot, copy]  # slot of the frame that follows the window
        ended = terminal[slot, copy]
        discount = np.where(ended, 0.0, self._gamma ** length[slot, copy].astype(np.float64))
        observation = self._stack_slots(slot, copy)  # [K, S] slots, PAD before the episode
        next_observation = self._stack_slots(after, copy)

        # Number the frames, each once, copy by copy: neighbours in time are alike and compress
        # well. First come all frames that the previous chunk named (a later chunk may need one
        # that this chunk does not use), then the new frames in use.
        slots = self._slots
        used = np.zeros((self._copies, slots), bool)
        columns = copy[:, None]
        for stacks in (observation, next_observation):
            rows, cols = np.broadcast_arrays(stacks, columns)
            here = stacks != PAD
            used[cols[here], rows[here]] = True
        sent = self._sent[:slots].T
        known = sent >= 0
        new = used & ~known
        reused = sent[known]
        numbers = np.full(used.shape, -1, np.int32)
        numbers[known] = np.arange(len(reused))
        numbers[new] = len(reused) + np.arange(np.count_nonzero(new))
        self._sent[:slots] = numbers.T
        items = {
            # PAD is −1: it picks a last slot, and `where` restores it.
            "observation": np.where(observation == PAD, PAD, numbers[columns, observation]),
            "next_observation": np.where(
                next_observation == PAD, PAD, numbers[columns, next_observation]
            ),
            "action": self._action[slot, copy],
            "reward": reward[slot, copy].astype(np.float32),
            "discount": discount.astype(np.float32),
            "version": self._version[slot, copy],
        }
        if self._mask is not None:
            items["next_mask"] = self._mask[after, copy]
        return Chunk(
            frames=self._frames[:slots].swapaxes(0, 1)[new],
            columns=items,
            priority=self._measure(
                reward[slot, copy], discount, self._taken[slot, copy], self._best[after, copy]
            ),
            reused=reused,
        )

    def _stack_slots(self, slot: Array, copy: Array) -> Array:
        """Slots of the S frames that end with `slot`, oldest first; `[K, S]`."""
        back = np.arange(self._stack - 1, -1, -1)
        inside = back <= self._position[slot, copy][:, None]
        return np.where(inside, slot[:, None] - back, PAD)

    def _discard(self) -> None:
        """Discard the slots that neither open windows nor their stacks need."""
        gone = self._slots - self._carry
        if gone <= 0:
            return
        for column in (
            self._frames,
            self._action,
            self._reward,
            self._ended,
            self._cut,
            self._acted,
            self._emitted,
            self._position,
            self._taken,
            self._best,
            self._version,
            self._sent,
            *(() if self._mask is None else (self._mask,)),
        ):
            column[: self._carry] = column[gone : self._slots]
        self._slots = self._carry

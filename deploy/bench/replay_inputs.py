"""Sizes, frames and chunks for the benchmarks of the replay memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.environments import make_environment
from common.config_sections import EnvConfig
from common.types import Array, Chunk, FrameSpec

PICTURE = FrameSpec((1, 84, 84), "uint8", 1 / 255)
VECTOR = FrameSpec((4,), "float32", 1.0)
STACK = 4
BATCH = 512
CHUNK = 50


@dataclass(frozen=True, slots=True)
class ReplaySizes:
    """Sizes and times of the measurements; tests take small ones.

    Attributes:
        pictures: capacity of the memory of pictures, in transitions.
        vectors: capacity of the memory of vectors.
        pong_steps: env steps of Pong whose frames are used over and over.
        large_chunk: transitions of a chunk of vectors.
        store_bytes: of Ray's object store.
        feed_s: seconds of inserting before each look at whether the memory is full.
        slice_s: seconds of one measurement of one subject.
        warm_up_s: seconds of sampling until each remote has touched all pages of the object store;
            earlier rates measure page faults.
    """

    pictures: int = 100_000
    vectors: int = 1 << 20
    pong_steps: int = 20_000
    large_chunk: int = 1000
    store_bytes: int = 2 << 30
    feed_s: float = 2.0
    slice_s: float = 0.3
    warm_up_s: float = 10.0


class Stream:
    """Chunks of one actor whose episode never ends, from a pool of frames used over and over."""

    def __init__(self, pool: Array, stack: int, count: int, n_step: int = 1) -> None:
        """Of `count` transitions each; `pool` is `[P, *frame]`."""
        self._pool = pool
        self._carried = n_step + stack - 1
        self._count = count
        start = np.arange(count)[:, None] + np.arange(stack)
        self._observation = start.astype(np.int32)
        self._next = (start + n_step).astype(np.int32)
        self._position = 0
        self._number = 0
        rng = np.random.default_rng(0)
        self._priority = rng.random(count).astype(np.float32)

    def next(self, continues: bool = True) -> Chunk:
        """The next chunk: the first carries all its frames, a later one only the new ones.

        Args:
            continues: the receiver still knows the previous chunk.
        """
        begins = self._number == 0 or not continues
        frames = self._count + (self._carried if begins else 0)
        if self._position + frames > len(self._pool):
            self._position = 0
        own = self._pool[self._position : self._position + frames]
        self._position += frames
        self._number += 1
        reused = np.arange(0 if begins else self._carried, dtype=np.int32)
        return Chunk(
            frames=own,
            columns={
                "observation": self._observation,
                "next_observation": self._next,
                "action": np.zeros(self._count, np.int32),
                "reward": np.zeros(self._count, np.float32),
                "discount": np.ones(self._count, np.float32),
                "version": np.zeros(self._count, np.int64),
            },
            priority=self._priority,
            reused=reused + self._count,
            number=self._number,
        )


def frame_of(pool: Array) -> FrameSpec:
    """The specification of the frames in a pool."""
    return PICTURE if pool.ndim > 2 else VECTOR


def pong_frames(steps: int) -> Array:
    """Frames of Pong under random actions, one copy after the other, `[P, 1, 84, 84]` uint8.

    Args:
        steps: env steps of all copies together.

    Raises:
        UserError: ale-py is not installed.
    """
    copies = 8
    environment = make_environment(EnvConfig(id="ALE/Pong-v5", stack=STACK), copies)
    rng = np.random.default_rng(0)
    frames = [environment.reset(0)]
    for _ in range(steps // copies):
        actions = rng.integers(0, environment.spec.num_actions, copies)
        frames.append(environment.step(actions).observation)
    environment.close()
    return np.concatenate(list(np.stack(frames, axis=1)))

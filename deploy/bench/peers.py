"""Other libraries' replay memories behind one face, for `raydqn bench replay --peers`.

Each is used as its own documents say, in its most frugal setting for stacked pictures.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import psutil

from common.errors import UserError
from common.types import Array, FrameSpec

ALPHA, BETA = 0.6, 0.4


class Peer(Protocol):
    """Another library's memory, filled.

    Attributes:
        nbytes: memory that the process claimed for it. prioritised: it has priorities to update.
    """

    nbytes: int
    prioritised: bool

    def insert(self) -> int:
        """A chunk's worth; how many transitions."""
        ...

    def sample(self) -> int:
        """A batch; how many transitions."""
        ...

    def update(self) -> int:
        """New priorities of a batch; how many."""
        ...


def make_peers(
    frame: FrameSpec, stack: int, capacity: int, pool: Array, chunk: int, batch: int
) -> dict[str, Peer]:
    """Those that are installed, filled with `capacity` transitions.

    Raises:
        UserError: none is.
    """
    known: dict[str, tuple[str, Callable[..., Peer]]] = {
        "tianshou PER": ("tianshou.data", _Tianshou),
        "cpprb PER": ("cpprb", _Cpprb),
        "SB3 uniform": ("stable_baselines3.common.buffers", _StableBaselines),
        "torchrl uniform": ("torchrl.data", _TorchRL),
    }
    here = {name: known[name] for name in known if find_spec(known[name][0].partition(".")[0])}
    if not here:
        raise UserError("--peers: none is installed; pip install -e '.[bench]'")
    for name, (module, _) in known.items():
        if name not in here:
            library = module.partition(".")[0]
            print(f"{name}: left out, {library} is not installed", file=sys.stderr)
    peers: dict[str, Peer] = {}
    for name, (module, make) in here.items():
        import_module(module)  # what the library itself takes is not its memory's
        before = resident_bytes()
        peers[name] = make(frame, stack, capacity, pool, chunk, batch)
        for _ in range(-(-capacity // chunk)):
            peers[name].insert()
        peers[name].nbytes = resident_bytes() - before
    return peers


def resident_bytes() -> int:
    """Memory of this process now, what can be given back given back."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


class _Frames:
    """Frames of a pool, one after the other, and stacks of them."""

    def __init__(self, pool: Array, stack: int) -> None:
        self._pool, self._stack, self._at = pool, stack, 0

    def next(self, count: int) -> tuple[Array, Array]:
        """Observations and next observations, `[count, S, *frame]`; for a stack of 1 no S."""
        if self._at + count + self._stack > len(self._pool):
            self._at = 0
        rows = self._at + np.arange(count + 1)[:, None] + np.arange(self._stack)
        self._at += count
        stacks = self._pool[rows]
        stacks = stacks[:, 0] if self._stack == 1 else stacks.reshape(count + 1, -1, 84, 84)
        return stacks[:-1], stacks[1:]


class _StableBaselines:
    """stable_baselines3.common.buffers.ReplayBuffer; it has no prioritised one."""

    prioritised = False
    nbytes = 0

    def __init__(
        self, frame: FrameSpec, stack: int, capacity: int, pool: Array, chunk: int, batch: int
    ) -> None:
        from gymnasium import spaces
        from stable_baselines3.common.buffers import ReplayBuffer

        shape = (stack, *frame.shape[1:]) if frame.is_picture else frame.shape
        high = 255 if frame.is_picture else np.inf
        space = spaces.Box(0 if frame.is_picture else -np.inf, high, shape, np.dtype(frame.dtype))
        self._buffer: Any = ReplayBuffer(
            capacity,
            space,
            spaces.Discrete(4),
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )
        self._frames, self._chunk, self._batch = _Frames(pool, stack), chunk, batch
        self._action, self._zero, self._done = np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool)

    def insert(self) -> int:
        observation, following = self._frames.next(self._chunk)
        for now, then in zip(observation, following, strict=True):
            self._buffer.add(now, then, self._action, self._zero, self._done, [{}])
        return self._chunk

    def sample(self) -> int:
        self._buffer.sample(self._batch)
        return self._batch

    def update(self) -> int:
        raise NotImplementedError


class _Tianshou:
    """tianshou.data.PrioritizedReplayBuffer: frames once, stacked when sampled."""

    prioritised = True
    nbytes = 0

    def __init__(
        self, frame: FrameSpec, stack: int, capacity: int, pool: Array, chunk: int, batch: int
    ) -> None:
        from tianshou.data import Batch, PrioritizedReplayBuffer

        self._batch_of: Any = Batch
        self._buffer: Any = PrioritizedReplayBuffer(
            capacity, alpha=ALPHA, beta=BETA, stack_num=stack, ignore_obs_next=True
        )
        self._pool, self._at, self._chunk, self._batch = pool, 0, chunk, batch
        self._indices: Array = np.zeros(batch, np.int64)
        self._rng = np.random.default_rng(0)

    def insert(self) -> int:
        for _ in range(self._chunk):
            frame = self._pool[self._at % len(self._pool)]
            self._at += 1
            self._buffer.add(
                self._batch_of(
                    obs=frame[0] if frame.ndim == 3 else frame,
                    act=0,
                    rew=0.0,
                    terminated=False,
                    truncated=False,
                    obs_next=frame[0] if frame.ndim == 3 else frame,
                    info={},
                )
            )
        return self._chunk

    def sample(self) -> int:
        _, self._indices = self._buffer.sample(self._batch)
        return self._batch

    def update(self) -> int:
        indices = self._rng.integers(0, len(self._buffer), self._batch)
        self._buffer.update_weight(indices, self._rng.random(self._batch))
        return self._batch


class _Cpprb:
    """cpprb.PrioritizedReplayBuffer, a buffer in C++; frames of stacks shared."""

    prioritised = True
    nbytes = 0

    def __init__(
        self, frame: FrameSpec, stack: int, capacity: int, pool: Array, chunk: int, batch: int
    ) -> None:
        from cpprb import PrioritizedReplayBuffer

        self._is_picture = frame.is_picture
        shape = (*frame.shape[1:], stack) if frame.is_picture else frame.shape  # stack comes last
        named: dict[str, Any] = {"next_of": "obs"}
        if frame.is_picture:
            named["stack_compress"] = "obs"
        self._buffer: Any = PrioritizedReplayBuffer(
            capacity,
            {"obs": {"shape": shape, "dtype": np.dtype(frame.dtype)}, "act": {}, "rew": {}}
            | {"done": {}},
            alpha=ALPHA,
            **named,
        )
        self._frames, self._chunk, self._batch = _Frames(pool, stack), chunk, batch
        self._rng = np.random.default_rng(0)
        self._zeros = np.zeros(chunk)

    def insert(self) -> int:
        observation, following = self._frames.next(self._chunk)
        if self._is_picture:
            observation = np.moveaxis(observation, 1, -1)
            following = np.moveaxis(following, 1, -1)
        zeros = self._zeros
        self._buffer.add(obs=observation, act=zeros, rew=zeros, done=zeros, next_obs=following)
        return self._chunk

    def sample(self) -> int:
        self._buffer.sample(self._batch, beta=BETA)
        return self._batch

    def update(self) -> int:
        indices = self._rng.integers(0, self._buffer.get_stored_size(), self._batch)
        self._buffer.update_priorities(indices, self._rng.random(self._batch))
        return self._batch


class _TorchRL:
    """torchrl's TensorDictReplayBuffer; its prioritised sampler does not load beside torch 2.13."""

    prioritised = False
    nbytes = 0

    def __init__(
        self, frame: FrameSpec, stack: int, capacity: int, pool: Array, chunk: int, batch: int
    ) -> None:
        import torch
        from tensordict import TensorDict
        from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

        self._torch: Any = torch
        self._dict: Any = TensorDict
        self._buffer: Any = TensorDictReplayBuffer(
            storage=LazyTensorStorage(capacity), batch_size=batch
        )
        self._frames, self._chunk, self._batch = _Frames(pool, stack), chunk, batch

    def insert(self) -> int:
        observation, following = (self._torch.from_numpy(a) for a in self._frames.next(self._chunk))
        zeros = self._torch.zeros(self._chunk)
        columns = {"obs": observation, "next": following, "act": zeros.long(), "rew": zeros}
        self._buffer.extend(self._dict({**columns, "done": zeros.bool()}, [self._chunk]))
        return self._chunk

    def sample(self) -> int:
        self._buffer.sample()
        return self._batch

    def update(self) -> int:
        raise NotImplementedError

"""Parts that the tests of actors/ and learner/ share: small environments, configs, chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from common.config import Config
from common.config_toml import build
from common.handles import InlineHandle, Ready
from common.item import item_of
from common.networks import QNetwork, make_network
from common.types import Array, Chunk, EnvironmentSpec, FrameSpec
from common.weights import WeightStore, pack_weights
from replay_server.messages import decode_chunk
from replay_server.server import ReplayServer
from support.replay import Reader

GREEDY = {"kind": "constant", "start": 0.0}
RANDOM = {"kind": "constant", "start": 1.0}

# Optional extras; continuous integration has them and takes a skip for a failure.
needs_atari = pytest.mark.skipif(find_spec("ale_py") is None, reason="needs ale-py")
needs_minatar = pytest.mark.skipif(find_spec("minatar") is None, reason="needs minatar")


class CountingEnv(gym.Env):
    """Episodes of known length; the observation tells episode, step and the action seen last."""

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own way to say it)

    def __init__(
        self,
        length: int = 4,
        actions: int = 3,
        start: int = 0,
        reward: float = 1.0,
        life_at: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = gym.spaces.Box(-1e6, 1e6, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(actions, start=start)
        self.render_mode = render_mode
        self._length, self._reward, self._life_at = length, reward, life_at
        self._episode = 0
        self._t = 0

    def _observe(self, action: int) -> tuple[Any, dict[str, Any]]:
        lives = 2 - (self._life_at is not None and self._t >= self._life_at)
        observation = np.array([self._episode, self._t, action], np.float32)
        return observation, {} if self._life_at is None else {"lives": int(lives)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._episode += 1
        self._t = 0
        return self._observe(-1)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"action {action} is not in the space"
        self._t += 1
        observation, info = self._observe(int(action))
        return observation, self._reward, self._t >= self._length, False, info


class ParityEnv(CountingEnv):
    """Short episodes where the first seed was even, long ones where it was odd: 2 or 30 steps."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self._length = 30 if seed % 2 else 2
        return super().reset(seed=seed, options=options)


class NoisyEnv(CountingEnv):
    """Observations are random numbers of the environment's own stream."""

    def _observe(self, action: int) -> tuple[Any, dict[str, Any]]:
        return self.np_random.random(3).astype(np.float32), {}


class ActionPaysEnv(CountingEnv):
    """The reward is the number of the action."""

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(action), terminated, truncated, info


def register(name: str, entry_point: Callable[..., Any], **more: Any) -> str:
    """The id under which gymnasium now knows it; registering twice is no error."""
    env_id = f"ActingTest/{name}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=entry_point, **more)
    return env_id


COUNTING = register("Counting", CountingEnv)
COUNTING_LIMITED = register("CountingLimited", CountingEnv, max_episode_steps=3)
PARITY = register("Parity", ParityEnv)
NOISY = register("Noisy", NoisyEnv)
ACTION_PAYS = register("ActionPays", ActionPaysEnv)


def make_config(**sections: Any) -> Config:
    """A small configuration with the given sections on top."""
    values: dict[str, Any] = {
        "seed": 5,
        "env": {"id": COUNTING},
        "network": {"hidden": [8]},
        "exploration": {"random_warmup": False},
        "actors": {"count": 1, "envs": 2, "chunk_steps": 4, "collect_steps": 4},
        "replay": {"capacity": 1000},
        "learner": {"batch_size": 8, "warmup_transitions": 8, "n_step": 1, "device": "cpu"},
    }
    for name, value in sections.items():
        values[name] = values.get(name, {}) | value if isinstance(value, dict) else value
    return build(values)


class KeepingServer(ReplayServer):
    """A real shard that also keeps what it was told, for the test to read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chunks: list[Chunk] = []  # each with all its frames
        self.sent_frames = 0
        self._reader = Reader()
        self.updates: list[tuple[Array, Array, int]] = []

    def insert(self, buffer: Array) -> int:
        self.sent_frames += decode_chunk(buffer).num_frames
        self.chunks.append(self._reader.whole(decode_chunk(buffer.copy())))
        return super().insert(buffer)

    def update_priorities(self, keys: Array, priorities: Array, incarnation: int) -> None:
        self.updates.append((keys.copy(), priorities.copy(), incarnation))
        super().update_priorities(keys, priorities, incarnation)

    def all_of(self, column: str) -> Array:
        """A column of everything inserted, in order."""
        if column == "priority":
            return np.concatenate([chunk.priority for chunk in self.chunks])
        return np.concatenate([chunk.columns[column] for chunk in self.chunks])

    def observations(self, column: str = "observation") -> Array:
        """Whole stacks of everything inserted, in order; zeros for PAD."""
        stacks = []
        for chunk in self.chunks:
            padded = np.concatenate((chunk.frames, np.zeros_like(chunk.frames[:1])))
            stacks.append(padded[chunk.columns[column]])
        return np.concatenate(stacks)


def make_server(
    spec: EnvironmentSpec, shard: int = 0, alpha: float = 0.6, incarnation: int = 0
) -> KeepingServer:
    return KeepingServer(
        capacity=2000,
        frame=spec.frame,
        item=item_of(spec),
        alpha=alpha,
        frame_capacity=8000,
        seed=3,
        shard=shard,
        incarnation=incarnation,
    )


def vector_spec(size: int, actions: int, stack: int = 1) -> EnvironmentSpec:
    return EnvironmentSpec(FrameSpec((size,), "float32", 1.0), stack, actions, {})


def publish(
    variables: WeightStore, version: int, network: QNetwork, learner_steps: int = 0
) -> None:
    weights = pack_weights(network.state_dict(), {"learner_steps": learner_steps})
    variables.publish(version, Ready(weights))


def network_that_prefers(spec: EnvironmentSpec, config: Config, action: int) -> QNetwork:
    """q(s, action) is greatest for whatever s."""
    network = make_network(spec, config.network)
    last = network.layers[-1]
    last.weight.data.zero_()
    last.bias.data.zero_()
    last.bias.data[action] = 1.0
    return network


class SlowFuture:
    """Not done before the first wait for it."""

    def __init__(self, handle: SlowHandle, value: Any) -> None:
        self._handle, self._value = handle, value

    def result(self) -> Any:
        if self in self._handle.under_way:
            self._handle.under_way.remove(self)
        return self._value

    def done(self) -> bool:
        return self not in self._handle.under_way


class SlowHandle(InlineHandle):
    """A far end that answers late: what is under way piles up unless the caller waits."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.under_way: deque[SlowFuture] = deque()
        self.most_under_way = 0

    def call(self, method: str, *args: Any) -> Any:
        future = SlowFuture(self, super().call(method, *args).result())
        self.under_way.append(future)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        return future

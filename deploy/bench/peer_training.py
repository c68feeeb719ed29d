"""Other libraries' DQN in training, for `raydqn bench train --peers`.

Each trains in a process of its own, on one thread: `python -m deploy.bench.peer_training` with
library, environment, env steps and seed prints one JSON object. The networks have the convolutions
and hidden units of raydqn's presets, without dueling streams and layer norm. Batch 32 every 4 env
steps, discount 0.99 and one environment are what both libraries take for Atari; `HYPERPARAMETERS`
are the same for both, too.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from actors.environments.minatar import register_minatar
from common.schedule import linear
from common.types import Array

BATCH, EVERY, GAMMA = 32, 4, 0.99
EPISODES = 100
LONGEST = 27_000
"""Env steps after which an evaluated episode is cut off, as raydqn's own evaluations are."""


class Hyperparameters(NamedTuple):
    """Values that both libraries train with.

    Attributes:
        learning_rate: of Adam.
        capacity: transitions that the memory holds.
        warm_up: env steps before the first update.
        target_steps: env steps between copies to the target network.
        epsilon_steps: env steps in which ε falls from 1.
        epsilon_end: ε afterwards.
    """

    learning_rate: float
    capacity: int
    warm_up: int
    target_steps: int
    epsilon_steps: int
    epsilon_end: float

    def epsilon(self, step: int) -> float:
        """ε after so many env steps."""
        return linear(step, 1.0, self.epsilon_end, self.epsilon_steps)


HYPERPARAMETERS = {
    # examples/dqn.py of MinAtar's authors, with Adam and its rate in CleanRL's dqn.py.
    "minatar": Hyperparameters(2.5e-4, 100_000, 5_000, 1_000, 100_000, 0.1),
    # CleanRL's dqn_atari.py; memory and ε's length for a run of 2 M env steps.
    "pong": Hyperparameters(1e-4, 100_000, 20_000, 1_000, 200_000, 0.01),
}


class Peer(NamedTuple):
    """A policy to be trained.

    Attributes:
        learn: train for that many env steps.
        act: the greedy action for an observation of the environment.
    """

    learn: Callable[[int], None]
    act: Callable[[Array], int]


def make_env(name: str) -> gym.Env[Array, np.int64]:
    """The environment of a preset, by the wrappers of Gymnasium.

    Args:
        name: `minatar-GAME` or `pong`.
    """
    if name == "pong":
        import ale_py
        from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

        gym.register_envs(ale_py)
        pong = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.25)
        return FrameStackObservation(AtariPreprocessing(pong), 4)
    game = name.removeprefix("minatar-").title().replace("-", "")
    env_id = f"MinAtar/{game}-v1"
    register_minatar(env_id)
    return gym.make(env_id)


def hyperparameters(name: str) -> Hyperparameters:
    """Those of an environment; see `make_env`."""
    return HYPERPARAMETERS["pong" if name == "pong" else "minatar"]


def _features(env: gym.Env[Array, np.int64]) -> tuple[nn.Module, int]:
    """Float pictures, as the environment gives them, to features; and their number."""
    space = env.observation_space
    assert isinstance(space, gym.spaces.Box)
    if space.dtype == np.uint8:
        layers = (nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU())
        last = (nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())
        return nn.Sequential(*layers, *last), 512
    convolution = nn.Conv2d(space.shape[2], 16, 3)
    flat = (nn.Flatten(), nn.Linear(1024, 128), nn.ReLU())
    return nn.Sequential(_ChannelsFirst(), convolution, nn.ReLU(), *flat), 128


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class PlainLearner:
    """DQN's memory and update as CleanRL writes them: uniform, of arrays, eager.

    The next observation of a transition stands in the next row. The last transition of an episode
    that is cut off bootstraps from the next one's first observation.
    """

    def __init__(
        self,
        policy: nn.Module,
        shape: tuple[int, ...],
        dtype: Any,
        capacity: int,
        learning_rate: float,
        rng: np.random.Generator,
        scale: float,
    ) -> None:
        """With nothing in the memory.

        Args:
            policy: `[B, *shape]` float32 → `[B, A]`.
            shape, dtype: of an observation.
            capacity: transitions that the memory holds.
            learning_rate: of Adam.
            rng: for sampling.
            scale: factor of observations.
        """
        self.policy, self._rng, self.capacity = policy, rng, capacity
        self._target = copy.deepcopy(policy)
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
        self._scale = scale
        self._observations = np.zeros((capacity, *shape), dtype)
        self._actions = np.zeros(capacity, np.int64)
        self._rewards = np.zeros(capacity, np.float32)
        self._ends = np.zeros(capacity, np.float32)

    def store(self, step: int, observation: Array, action: int, reward: float, end: bool) -> None:
        """Keep the transition of env step `step`."""
        place = step % self.capacity
        self._observations[place], self._actions[place] = observation, action
        self._rewards[place], self._ends[place] = reward, end

    def tensor(self, observations: Array) -> Tensor:
        """Observations as the policy takes them."""
        return torch.from_numpy(observations).float() * self._scale

    def sync_target(self) -> None:
        """Copy the policy network to the target network."""
        self._target.load_state_dict(self.policy.state_dict())

    def update(self, step: int, batch: int) -> None:
        """One gradient step with a batch of the transitions up to env step `step`."""
        filled = min(step, self.capacity - 1)
        # The newest row has no next observation yet.
        rows = (step - 1 - self._rng.integers(filled, size=batch)) % self.capacity
        rewards, ends = (torch.from_numpy(column[rows]) for column in (self._rewards, self._ends))
        with torch.no_grad():
            following = self._observations[(rows + 1) % self.capacity]
            best = self._target(self.tensor(following)).max(dim=1).values
            wanted = rewards + GAMMA * best * (1 - ends)
        q = self.policy(self.tensor(self._observations[rows]))
        taken = q.gather(1, torch.from_numpy(self._actions[rows])[:, None]).squeeze(1)
        loss = nn.functional.mse_loss(wanted, taken)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class PlainLoop:
    """DQN as CleanRL writes it: one environment, one file."""

    def __init__(self, env: gym.Env[Array, np.int64], values: Hyperparameters, seed: int) -> None:
        """For one environment, with the first weights of `seed`."""
        assert isinstance(env.action_space, gym.spaces.Discrete)
        torch.manual_seed(seed)
        self._env, self._values, self._seed = env, values, seed
        self._actions = int(env.action_space.n)
        features, count = _features(env)
        policy = nn.Sequential(features, nn.Linear(count, self._actions))
        self._rng = np.random.default_rng(seed)
        space = env.observation_space
        assert space.shape is not None
        scale = 1 / 255 if space.dtype == np.uint8 else 1.0
        self._learner = PlainLearner(
            *(policy, space.shape, space.dtype, values.capacity, values.learning_rate, self._rng),
            scale,
        )

    def learn(self, steps: int) -> None:
        """Train for that many env steps."""
        values, env, learner = self._values, self._env, self._learner
        observation, _ = env.reset(seed=self._seed)
        for step in range(steps):
            explores = self._rng.random() < values.epsilon(step)
            action = int(self._rng.integers(self._actions)) if explores else self.act(observation)
            new, reward, terminated, truncated, _ = env.step(np.int64(action))
            learner.store(step, observation, action, float(reward), terminated)
            observation = env.reset()[0] if terminated or truncated else new
            if step > values.warm_up and step % EVERY == 0:
                learner.update(step, BATCH)
            if step % values.target_steps == 0:
                learner.sync_target()

    def act(self, observation: Array) -> int:
        """The greedy action."""
        with torch.no_grad():
            return int(self._learner.policy(self._learner.tensor(observation[None])).argmax())


def plain_loop(env: gym.Env[Array, np.int64], values: Hyperparameters, seed: int) -> Peer:
    """CleanRL's loop."""
    loop = PlainLoop(env, values, seed)
    return Peer(loop.learn, loop.act)


def stable_baselines(env: gym.Env[Array, np.int64], values: Hyperparameters, seed: int) -> Peer:
    """`stable_baselines3.DQN` with the same network, extra `bench`."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Features(BaseFeaturesExtractor):  # type: ignore[misc]  # the library may be absent
        def __init__(self, space: gym.spaces.Box) -> None:
            layers, count = _features(env)
            super().__init__(space, count)
            self.layers = layers

        def forward(self, observations: Tensor) -> Tensor:
            features: Tensor = self.layers(observations)
            return features

    def model(steps: int) -> Any:
        return DQN(
            "MlpPolicy" if env.observation_space.dtype == bool else "CnnPolicy",
            env,
            learning_rate=values.learning_rate,
            buffer_size=values.capacity,
            learning_starts=values.warm_up,
            batch_size=BATCH,
            gamma=GAMMA,
            train_freq=EVERY,
            target_update_interval=values.target_steps,
            exploration_fraction=min(1.0, values.epsilon_steps / steps),
            exploration_final_eps=values.epsilon(steps),
            policy_kwargs={"features_extractor_class": Features, "net_arch": []},
            seed=seed,
            device="cpu",
        )

    trained: list[Any] = []

    def learn(steps: int) -> None:
        trained.append(model(steps).learn(steps))

    return Peer(
        learn, lambda observation: int(trained[-1].predict(observation, None, None, True)[0])
    )


LIBRARIES: dict[str, tuple[str | None, Callable[..., Peer]]] = {
    "CleanRL's loop": (None, plain_loop),
    "SB3 DQN": ("stable_baselines3", stable_baselines),
}
"""By subject: the package that it needs, and its maker."""


def installed() -> dict[str, bool]:
    """For each subject, whether it can be measured here."""
    return {
        name: package is None or bool(find_spec(package))
        for name, (package, _) in LIBRARIES.items()
    }


def greedy_score(env: gym.Env[Array, np.int64], act: Callable[[Array], int], seed: int) -> float:
    """Mean return of 100 greedy episodes of seeds of their own."""
    returns = []
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=1_000_000 * (seed + 1) + episode)
        total = 0.0
        for _ in range(LONGEST):
            observation, reward, terminated, truncated, _ = env.step(np.int64(act(observation)))
            total += float(reward)
            if terminated or truncated:
                break
        returns.append(total)
    return float(np.mean(returns))


def train(library: str, name: str, steps: int, seed: int) -> dict[str, float]:
    """Train and evaluate one policy.

    Args:
        library: a subject, see `LIBRARIES`.
        name: see `make_env`.
        steps: env steps of training.
        seed: of weights, exploration and environment.
    """
    torch.set_num_threads(1)
    env = make_env(name)
    peer = LIBRARIES[library][1](env, hyperparameters(name), seed)
    start = time.perf_counter()
    peer.learn(steps)
    wall_s = time.perf_counter() - start
    return {"wall_s": wall_s, "score": greedy_score(make_env(name), peer.act, seed)}


if __name__ == "__main__":
    _, library, name, steps, seed = sys.argv
    print(json.dumps(train(library, name, int(steps), int(seed))))

"""Actor: N environment copies, an ε-greedy agent, and a writer to the replay memory."""

from __future__ import annotations

import time

import numpy as np
import torch

from actors.accumulator import NStepAccumulator
from actors.agent import Agent
from actors.environments import make_environment
from actors.exploration import EpsilonSchedule
from actors.preprocessing import FrameStack
from actors.priorities import make_measure, numbers_of
from common.config import Config
from common.handles import Handle
from common.networks import make_network
from common.parts import WEIGHT_STORE, PartId, shard
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import ActorReport, Array, Episode
from common.weights import WeightClient
from replay_server.codec import make_codec
from replay_server.writer import ReplayWriter


class Actor:
    """Steps its environments and sends experience; keeps its state between calls of `collect`."""

    def __init__(
        self,
        config: Config,
        index: int,
        incarnation: int,
        shards: list[Handle],
        weight_store: Handle,
    ) -> None:
        """An actor at the start of an episode in each copy.

        Args:
            config: of the run.
            index: 0 … actors.count−1; gives ε and, with `incarnation`, the random streams.
            incarnation: how many actors of this index came before.
            shards: of the replay memory.
            weight_store: to fetch weights from.
        """
        self._config = config
        self._index = index
        self._incarnation = incarnation
        sequence = seed_sequence(config.seed, Role.ACTOR, index, incarnation)
        env_seed, rng_seed = integer_seeds(sequence, 2)
        copies = config.actors.envs
        self._environment = make_environment(config.env, copies, seed=env_seed)
        spec = self._environment.spec
        network = make_network(spec, config.network)
        self._agent = Agent(
            network,
            torch.device("cpu"),
            np.random.default_rng(rng_seed),
            explores=True,
        )
        self.set_actor_count(config.actors.count)
        self._stacks = FrameStack(copies, spec.stack, spec.frame)
        self._accumulator = NStepAccumulator(
            spec,
            copies,
            config.learner.n_step,
            config.learner.gamma,
            max_slots=config.actors.chunk_steps,
            numbers=numbers_of(config.network),
            measure=make_measure(network, config.network.head, config.learner),
        )
        self._writer = ReplayWriter(
            shards,
            config.actors.inserts_in_flight,
            stream=index,
            incarnation=incarnation,
            codec=make_codec(config.replay.compression, spec.frame),
        )
        self._weight_store = WeightClient(weight_store)
        self._closed = False
        self._steps_since_chunk = 0
        self._frames = self._environment.reset(env_seed)
        self._first = np.ones(copies, bool)
        self._ignored = np.zeros(copies, bool)
        self._returns = np.zeros(copies)
        self._lengths = np.zeros(copies, np.int64)

    def collect(self, vector_steps: int, run_env_steps: int) -> ActorReport:
        """Act, and send the experience to the replay memory.

        Args:
            vector_steps: steps of every copy.
            run_env_steps: env steps of the whole run so far, for schedules of ε.
        """
        start = time.perf_counter()
        env_s = policy_s = 0.0
        waited = self._writer.wait_s
        fetches = self._weight_store.fetches
        self._fetch_weights()
        env_steps = 0
        episodes: list[Episode] = []
        for _ in range(vector_steps):
            # Until the next report, the other actors count as just as fast as this one.
            epsilons = self._schedule.epsilons(run_env_steps + env_steps * self._actors)
            stepped, env, policy = self._step(epsilons, episodes)
            env_steps += stepped
            env_s += env
            policy_s += policy
            if self._steps_since_chunk == self._config.actors.chunk_steps:
                self._send()
        return ActorReport(
            index=self._index,
            incarnation=self._incarnation,
            env_steps=env_steps,
            frames=env_steps * self._environment.frames_per_step,
            transitions=self._writer.take_accepted(),
            episodes=episodes,
            epsilon=float(epsilons.mean()),
            version=self._weight_store.version,
            fetches=self._weight_store.fetches - fetches,
            inserts_in_flight=self._writer.in_flight,
            dropped=self._writer.take_dropped(),
            unreachable=[*map(shard, sorted(self._writer.unreachable))]
            + [WEIGHT_STORE] * self._weight_store.unreachable,
            wall_s=time.perf_counter() - start,
            env_s=env_s,
            policy_s=policy_s,
            insert_wait_s=self._writer.wait_s - waited,
        )

    def _step(self, epsilons: Array, episodes: list[Episode]) -> tuple[int, float, float]:
        """One step of every copy.

        Args:
            epsilons: `[N]`.
            episodes: gets the episodes that end.

        Returns:
            Env steps; seconds in the environment, and in the policy.
        """
        before = time.perf_counter()
        stacks = self._stacks.push(self._frames, self._first)
        legal = self._environment.legal
        choice = self._agent.select_actions(stacks, epsilons, legal)
        between = time.perf_counter()
        step = self._environment.step(choice.actions)
        after = time.perf_counter()
        self._accumulator.append(
            frames=self._frames,
            first=self._first,
            action=choice.actions,
            taken=choice.taken,
            best=choice.best,
            version=self._weight_store.version,
            reward=self._learned_reward(step.reward),
            terminated=step.terminated,
            truncated=step.truncated,
            life_ended=step.life_lost & self._config.env.life_loss_ends,
            ignored=self._ignored,
            legal=legal,
        )
        env_steps = self._environment.num_envs - int(self._ignored.sum())
        done = step.terminated | step.truncated
        self._returns += step.reward
        self._lengths += ~self._ignored
        for i in np.flatnonzero(done):
            episodes.append(
                Episode(float(self._returns[i]), int(self._lengths[i]), float(epsilons[i]))
            )
        self._returns[done] = 0
        self._lengths[done] = 0
        self._frames, self._first, self._ignored = step.observation, step.first, done
        self._steps_since_chunk += 1
        return env_steps, after - between, between - before

    def set_actor_count(self, actors: int) -> None:
        """Set the number of actors: ε depends on this one's place among them."""
        self._actors = actors
        self._schedule = EpsilonSchedule(
            self._config.exploration,
            self._index,
            actors,
            self._config.actors.envs,
            warmup=self._config.learner.warmup_transitions,
        )

    def reconnect(self, part: PartId, handle: Handle) -> None:
        """Use this handle of the weight store, or of a shard, which was restarted."""
        if part == WEIGHT_STORE:
            self._weight_store.reconnect(handle)
        else:
            self._writer.reconnect(part.index, handle)

    def close(self) -> int:
        """Send the rest of the experience, wait until it is stored, free the environments.

        Unfinished episodes count as truncated: every step becomes a transition.

        Returns:
            Transitions stored since the last report.
        """
        if self._closed:
            return 0
        self._closed = True
        self._send()
        self._accumulator.cut(self._frames, self._environment.legal)
        self._send()
        self._writer.flush()
        self._environment.close()
        return self._writer.take_accepted()

    def _fetch_weights(self) -> None:
        weights = self._weight_store.fetch()
        if weights is not None:
            self._agent.load_weights(weights)

    def _learned_reward(self, reward: Array) -> Array:
        clip = self._config.env.reward_clip
        return reward if clip is None else np.clip(reward, -clip, clip)

    def _send(self) -> None:
        chunk = self._accumulator.drain(self._writer.continues)
        if chunk is not None:
            self._writer.write(chunk)
        self._steps_since_chunk = 0

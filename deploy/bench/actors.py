"""`raydqn bench actors`: what limits an actor: the environment, inference or writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from actors.actor import Actor
from actors.agent import Agent
from actors.environments import environment_spec, make_environment
from actors.environments.atari import is_atari
from actors.preprocessing import FrameStack
from common.config import Config
from common.config_toml import merge
from common.errors import UserError
from common.handles import Handle
from common.networks import make_network
from common.parts import actor
from common.seeding import Role, integer_seeds, seed_sequence
from common.suggestion import suggest
from common.text import counted
from common.types import Array, EnvironmentSpec
from deploy.bench.measurement import Measurement
from deploy.launch.presets import make_config, preset_names
from deploy.program import Program
from deploy.runtime.inline import InlineRuntime
from deploy.runtime.interface import Runtime
from deploy.runtime.local_ray import local_ray

ALONE, INFERENCE, WRITES = "environment alone", "+ inference", "+ writes"
STAGES = (ALONE, INFERENCE, WRITES)
DEFAULT = ("cartpole", "minatar-breakout", "minatar-space-invaders", "pong")
COUNTS = (1, 2)
"""Of actors: one in this process, two in processes of their own on Ray."""
SLICE_S = 1.0
STORE_BYTES = 512 << 20
CAPACITY = 20_000
"""Transitions of the replay memory, which overwrites the oldest ones."""
OVERRIDES = {"replay": {"capacity": CAPACITY, "shards": 1}, "learner": {"warmup_transitions": 1}}


class Speed(NamedTuple):
    """What an actor did in one slice of time."""

    env_steps: int
    wall_s: float
    env_s: float  # of them, in the environment


class BenchActor:
    """The loop of an actor, up to one of the three stages."""

    def __init__(
        self, config: Config, index: int, shards: Sequence[Handle], weight_store: Handle
    ) -> None:
        """An actor of the run that the configuration describes; arguments as of `Actor`."""
        torch.set_num_threads(1)  # as on Ray, where each actor has one core
        self._config = config
        self._actor = Actor(config, index, 0, list(shards), weight_store)
        env_seed, rng_seed = integer_seeds(seed_sequence(config.seed, Role.ACTOR, index, 1), 2)
        copies = config.actors.envs
        self._rng = np.random.default_rng(rng_seed)
        self._environment = make_environment(config.env, copies, seed=env_seed)
        self._spec = self._environment.spec
        network = make_network(self._spec, config.network)
        self._agent = Agent(network, torch.device("cpu"), self._rng, explores=True)
        self._stacks = FrameStack(copies, self._spec.stack, self._spec.frame)
        self._frames: Array = self._environment.reset(env_seed)
        self._first: Array = np.ones(copies, bool)
        self._epsilons: Array = np.full(copies, 0.1)

    def run(self, stage: str, seconds: float) -> Speed:
        """Do the work of a stage for so many seconds, or a little longer."""
        env_steps, env_s, start = 0, 0.0, time.perf_counter()
        while (wall_s := time.perf_counter() - start) < seconds:
            if stage == WRITES:
                report = self._actor.collect(self._config.actors.collect_steps, 0)
                env_steps += report.env_steps
                env_s += report.env_s
                continue
            stepped, taken_s = self._step(with_network=stage == INFERENCE)
            env_steps += stepped
            env_s += taken_s
        return Speed(env_steps, wall_s, env_s)

    def _step(self, with_network: bool) -> tuple[int, float]:
        """One step of every copy: env steps, and seconds in the environment."""
        legal, copies = self._environment.legal, self._environment.num_envs
        if with_network:
            stacks = self._stacks.push(self._frames, self._first)
            actions = self._agent.select_actions(stacks, self._epsilons, legal).actions
        elif legal is None:
            actions = self._rng.integers(self._spec.num_actions, size=copies)
        else:
            actions = legal.argmax(axis=1)
        before = time.perf_counter()
        step = self._environment.step(actions)
        taken_s = time.perf_counter() - before
        self._frames, self._first = step.observation, step.first
        return copies - int(step.first.sum()), taken_s

    def close(self) -> None:
        """Free the environments."""
        self._actor.close()
        self._environment.close()


def bench_actors(
    repeat: int, names: Sequence[str] = (), counts: Sequence[int] = COUNTS
) -> Iterator[Measurement]:
    """Env steps per second of the three stages, and the environment's share of an actor's time.

    Args:
        repeat: rounds; in each, every stage and number of actors has its turn.
        names: presets or ids of environments; empty: those of `DEFAULT`.
        counts: numbers of actors.

    Raises:
        UserError: there is no such environment.
    """
    configs = {name: config_of(name) for name in names or DEFAULT}
    specs = {name: _spec_of(name, config) for name, config in configs.items()}  # before Ray starts
    if max(counts) == 1:
        for name, config in configs.items():
            yield from _one(name, config, specs[name], {1: InlineRuntime()}, repeat)
        return
    with local_ray(STORE_BYTES) as ray:
        for name, config in configs.items():
            runtimes = {count: InlineRuntime() if count == 1 else ray for count in counts}
            yield from _one(name, config, specs[name], runtimes, repeat)


def config_of(name: str) -> Config:
    """The configuration of a preset, or of an environment's id with the preset that is nearest.

    Raises:
        UserError: neither a preset nor an environment.
    """
    if name in preset_names():
        return make_config(name, overrides=OVERRIDES)
    is_minatar = "MinAtar/" in name
    preset = "atari" if is_atari(name) else "minatar-breakout" if is_minatar else "cartpole"
    return make_config(preset, overrides=merge(OVERRIDES, {"env": {"id": name}}))


def _spec_of(name: str, config: Config) -> EnvironmentSpec:
    """The environment of a configuration; its error also names the preset that may be meant."""
    try:
        return environment_spec(config.env, config.seed)
    except UserError as error:
        if name in preset_names() or "did you mean" in str(error):
            raise
        raise UserError(f"{error}{suggest(name, preset_names(), 'preset {}'.format)}") from None


def _one(
    name: str,
    config: Config,
    spec: EnvironmentSpec,
    runtimes: Mapping[int, Runtime],
    repeat: int,
) -> Iterator[Measurement]:
    """The figures of one environment."""
    rates: dict[tuple[int, str], list[float]] = {}
    shares: dict[int, list[float]] = {}
    started = []
    actors: dict[int, list[Handle]] = {}
    threads = torch.get_num_threads()
    try:
        for count, runtime in runtimes.items():
            program = Program(config, spec, runtime, 0, None)
            program.weight_store = program.spawn_weight_store(-1, 0)
            program.shards = [program.spawn_shard(0, None, 0)]
            actors[count] = [
                runtime.spawn(
                    *(BenchActor, config, index, program.shards, program.weight_store),
                    part=actor(index),
                    incarnation=0,
                )
                for index in range(count)
            ]
            parts = (program.weight_store, *program.shards, *actors[count])
            started += [(runtime, handle) for handle in parts]
        for number in range(repeat + 1):  # the first round warms up
            for count, stage in ((c, s) for c in runtimes for s in STAGES):
                speeds = _run(actors[count], stage)
                if number == 0:
                    continue
                rate = sum(speed.env_steps / speed.wall_s for speed in speeds)
                rates.setdefault((count, stage), []).append(rate)
                if stage == WRITES:
                    share = sum(s.env_s for s in speeds) / sum(s.wall_s for s in speeds)
                    shares.setdefault(count, []).append(100 * share)
        for handles in actors.values():
            for future in [handle.call("close") for handle in handles]:
                future.result()
    finally:
        torch.set_num_threads(threads)
        for runtime, handle in started:
            runtime.kill(handle)
    yield from _figures(f"{name}, {counted(config.actors.envs, 'env')}", rates, shares)


def _run(actors: Sequence[Handle], stage: str) -> list[Speed]:
    """A slice of time of all actors at once."""
    futures = [handle.call("run", stage, SLICE_S) for handle in actors]
    return [future.result() for future in futures]


def _figures(
    subject: str, rates: Mapping[tuple[int, str], list[float]], shares: Mapping[int, list[float]]
) -> Iterator[Measurement]:
    def told(count: int) -> str:
        return f"{subject}, {counted(count, 'actor')}"

    for (count, stage), values in rates.items():
        yield Measurement.of(stage, told(count), values, "env steps/s")
    for count, values in shares.items():
        unit = "% of its time"
        yield Measurement.of("environment stepping takes", told(count), values, unit)

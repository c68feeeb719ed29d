"""`raydqn bench learner`: where a learner step's time goes, beside a plain eager loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.config import Config
from common.config_toml import build
from common.errors import UserError
from common.handles import InlineHandle
from common.item import transition_item
from common.networks import choose_device, make_network
from common.seeding import Role, integer_seeds, seed_sequence
from common.text import counted
from common.types import PAD, Array, Chunk, EnvironmentSpec, FrameSpec
from common.weights import WeightStore, pack_weights
from deploy.bench.measurement import Measurement
from deploy.bench.peer_training import PlainLearner
from learner.learner import Learner
from learner.optimizer import Optimizer
from learner.prefetch import DeviceBatchGroup, Stager
from learner.update import Update
from replay_server.messages import encode_chunk
from replay_server.sampler import BatchGroup, ReplaySampler
from replay_server.server import ReplayServer

OURS, TIMED, PLAIN = "raydqn", "raydqn with a clock", "plain loop"
PHASES = ("sample", "stage", "forward", "backward", "optimiser", "read", "publish")
"""Of one learner step; the loss belongs to `forward`, the limit of the gradient to `backward`, and
`read` is the transfer of priorities and figures to the processor."""
REST = "rest"
"""Of a learner's step: means for the report, versions, the release of messages."""
CALL_S = 0.1
"""Seconds of one call of the learner, about; a call ends with a report."""
STEP = "learner step"
SPECS = {
    "mlp": EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {}),
    "minatar-cnn": EnvironmentSpec(FrameSpec((4, 10, 10), "uint8", 1.0), 1, 6, {}),
    "small-cnn": EnvironmentSpec(FrameSpec((1, 42, 42), "uint8", 1 / 255), 4, 6, {}),
    "nature-cnn": EnvironmentSpec(FrameSpec((1, 84, 84), "uint8", 1 / 255), 4, 6, {}),
    "impala-cnn": EnvironmentSpec(FrameSpec((1, 84, 84), "uint8", 1 / 255), 4, 6, {}),
}
"""The observations of each network: those of CartPole, MinAtar, and Atari in two sizes."""
HIDDEN = {"mlp": (128, 128), "minatar-cnn": (128,), "small-cnn": (256,)}
CAPACITY, CHUNK = 8_192, 64


@dataclass(frozen=True, slots=True)
class LearnerBench:
    """Subjects and length of the measurement.

    Attributes:
        networks: kinds (`network.kind`). batch_sizes: of each.
        device, precision: see `learner.device` and `learner.precision`.
        threads: of torch.
        rounds: measurements of each subject.
        slice_s: seconds of one.
    """

    networks: Sequence[str] = ("mlp", "minatar-cnn", "nature-cnn")
    batch_sizes: Sequence[int] = (32, 256)
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 1
    rounds: int = 5
    slice_s: float = 1.0


def bench_learner(given: LearnerBench) -> Iterator[Measurement]:
    """Milliseconds of a learner step, of its phases, and of a plain loop's step, taken in turn.

    All sample from a memory in this process and train a network without dueling streams by the
    plain Bellman target: raydqn with priorities, three-step returns and the Huber loss, the plain
    loop as CleanRL does. The phases are those of the same step with a clock in it, before each look
    at which a GPU finishes its work. The plain loop takes part on a CPU in fp32.

    Raises:
        UserError: an unknown network, or a device that is not there.
    """
    for network in given.networks:
        if network not in SPECS:
            raise UserError(f"--network={network}: must be one of {', '.join(SPECS)}")
    torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    for network in given.networks:
        for batch_size in given.batch_sizes:
            config = _config(network, batch_size, given)
            yield from _measure(config, SPECS[network], device, given)


def _config(network: str, batch_size: int, given: LearnerBench) -> Config:
    return build(
        {
            "network": {"kind": network, "hidden": HIDDEN.get(network, (512,))},
            "learner": {
                "batch_size": batch_size,
                "double": False,
                "precision": given.precision,
                "threads": given.threads,
                "device": given.device,
                "samples_in_flight": 1,
                "warmup_transitions": batch_size,
            },
            "seed": 1,
        },
    )


def _measure(
    config: Config, spec: EnvironmentSpec, device: torch.device, given: LearnerBench
) -> Iterator[Measurement]:
    timed = TimedLearner(config, spec, device)
    subjects: dict[str, Callable[[], int]] = {OURS: _learner(config, spec), TIMED: timed.step}
    if device.type == "cpu" and given.precision == "fp32":
        subjects[PLAIN] = _plain(config, spec)
    steps: dict[str, list[float]] = {name: [] for name in subjects}
    phases: dict[str, list[float]] = {phase: [] for phase in (*PHASES, REST)}
    for step in subjects.values():
        for _ in range(3):
            step()
    for _ in range(given.rounds):
        for name, step in subjects.items():
            timed.seconds.clear()
            done, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < given.slice_s:
                done += step()
            steps[name].append(1e3 * elapsed / done)
            if name == TIMED:
                for phase in PHASES:
                    phases[phase].append(1e3 * timed.seconds[phase] / done)
        phases[REST].append(steps[OURS][-1] - sum(phases[phase][-1] for phase in PHASES))
    yield from _figures(_where(config, device), config.learner.batch_size, steps, phases)


def _where(config: Config, device: torch.device) -> str:
    learner = config.learner
    parts = [config.network.kind, f"batch {learner.batch_size}"]
    if learner.precision != "fp32":
        parts.append(learner.precision)
    if device.type != "cpu":
        parts.append(device.type)
    elif learner.threads > 1:
        parts.append(counted(learner.threads, "thread"))
    return ", ".join(parts)


def _figures(
    where: str, batch_size: int, steps: dict[str, list[float]], phases: dict[str, list[float]]
) -> Iterator[Measurement]:
    for name in (OURS, PLAIN):
        if name in steps:
            yield Measurement.of(STEP, f"{where}, {name}", steps[name], "ms")
    for phase, values in phases.items():
        yield Measurement.of(f"  {phase}", f"{where}, {OURS}", values, "ms")
    rates = [batch_size * 1e3 / step for step in steps[OURS]]
    yield Measurement.of("samples", f"{where}, {OURS}", rates, "transitions/s")
    if PLAIN in steps:
        ratios = [a / b for a, b in zip(steps[PLAIN], steps[OURS], strict=True)]
        yield Measurement.of("learner steps/s", f"{where}, {OURS} ÷ {PLAIN}", ratios, "ratio")


def _filled_shard(spec: EnvironmentSpec) -> InlineHandle:
    item = transition_item(spec.stack)
    server = ReplayServer(CAPACITY, spec.frame, item, 0.6, 2 * CAPACITY, 1, 0)
    for chunk in _chunks(spec):
        server.insert(encode_chunk(chunk))
    return InlineHandle(server)


def _learner(config: Config, spec: EnvironmentSpec) -> Callable[[], int]:
    """Steps of a whole learner, in calls of about `CALL_S` seconds."""
    learner = Learner(config, spec, [_filled_shard(spec)], InlineHandle(WeightStore()))
    learner.train(2)
    start = time.perf_counter()
    learner.train(2)
    count = max(1, round(2 * CALL_S / (time.perf_counter() - start)))
    return lambda: learner.train(count).steps


class TimedLearner:
    """The pieces of a learner, with a clock between them, and a shard in this process.

    Attributes:
        seconds: of each phase since they were cleared.
        policy: the network in training.
    """

    def __init__(self, config: Config, spec: EnvironmentSpec, device: torch.device) -> None:
        """With a full memory."""
        self._config = config
        (seed,) = integer_seeds(seed_sequence(config.seed, Role.NETWORK), 1)
        self.policy = make_network(spec, config.network, seed).to(device)
        target = make_network(spec, config.network, seed).to(device)
        target.requires_grad_(False).eval()
        optimizer = Optimizer(self.policy.parameters(), config.learner)
        self._update = Update(config, self.policy, target, optimizer, device)
        learner = config.learner
        self._sampler = ReplaySampler(
            [_filled_shard(spec)],
            learner.batch_size,
            learner.batches_per_sample,
            1,
            config.replay.beta,
            np.random.default_rng(seed_sequence(config.seed, Role.SAMPLER, 0, 0)),
        )
        self._stager = Stager(device, transition_item(spec.stack))
        self._group: BatchGroup
        self._staged: DeviceBatchGroup
        self._priorities = np.zeros((learner.batches_per_sample, learner.batch_size))
        self._steps = 0
        self.seconds = _Clock(device)

    def step(self) -> int:
        """One learner step, which changes the network as `Learner.train` does; returns 1."""
        clock, number = self.seconds, self._steps
        batches = self._config.learner.batches_per_sample
        clock.start()
        if self._steps % batches == 0:
            self._group = self._sampler.next_group()
            clock.lap("sample")
            self._staged = self._stager.stage(self._group)
        transition, weight = self._staged.batch(self._steps % batches)
        clock.lap("stage")
        loss, item = self._update.losses(number, transition, weight)
        clock.lap("forward")
        norm = self._update.gradient(loss)
        clock.lap("backward")
        self._update.change(number)
        clock.lap("optimiser")
        _ = torch.stack((loss.detach(), item.q.mean(), norm)).tolist()
        self._priorities[self._steps % batches] = item.priority.cpu().numpy()
        self._steps += 1
        if self._steps % batches == 0:
            self._sampler.update_priorities(self._group, self._priorities)
        clock.lap("read")
        if self._steps % self._config.learner.publish_steps == 0:
            pack_weights(self.policy.state_dict(), {"learner_steps": self._steps})
        clock.lap("publish")
        return 1


class _Clock(dict[str, float]):
    """Seconds by phase; a GPU finishes its work before each look at the clock."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._wait = torch.cuda.synchronize if device.type == "cuda" else None
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        self[phase] = self.get(phase, 0.0) + now - self._last
        self._last = now


def _chunks(spec: EnvironmentSpec) -> Iterator[Chunk]:
    """Made-up experience of episodes of one chunk each."""
    rng = np.random.default_rng(0)
    start = np.arange(CHUNK)[:, None] + np.arange(spec.stack)
    padded = np.where(start < spec.stack, PAD, start).astype(np.int32)
    for number in range(CAPACITY // CHUNK):
        yield Chunk(
            frames=_frames(rng, CHUNK + spec.stack, spec.frame),
            columns={
                "observation": padded,
                "next_observation": (start + 1).astype(np.int32),
                "action": rng.integers(spec.num_actions, size=CHUNK).astype(np.int32),
                "reward": rng.normal(size=CHUNK).astype(np.float32),
                "discount": np.full(CHUNK, 0.97, np.float32),
                "version": np.zeros(CHUNK, np.int64),
            },
            priority=rng.random(CHUNK).astype(np.float32),
            number=number,
        )


def _frames(rng: np.random.Generator, count: int, frame: FrameSpec) -> Array:
    if frame.dtype == "uint8":
        return rng.integers(0, 256, (count, *frame.shape), np.uint8)
    return rng.normal(size=(count, *frame.shape)).astype(np.float32)


def _plain(config: Config, spec: EnvironmentSpec) -> Callable[[], int]:
    """The update of a plain loop with the same network, from a memory of whole observations."""
    batch_size, steps = config.learner.batch_size, CAPACITY // 4
    learner = PlainLearner(
        _Plain(spec, config),
        (spec.stack, *spec.frame.shape),
        np.dtype(spec.frame.dtype),
        steps,
        config.learner.learning_rate,
        np.random.default_rng(0),
        spec.frame.scale,
    )
    rng = np.random.default_rng(1)
    for step in range(steps):
        frames = _frames(rng, spec.stack, spec.frame)
        learner.store(step, frames, int(rng.integers(spec.num_actions)), 0.0, False)

    def update() -> int:
        learner.update(steps, batch_size)
        return 1

    return update


class _Plain(torch.nn.Module):
    """The layers of raydqn's network, in torch's own memory format, for scaled observations."""

    def __init__(self, spec: EnvironmentSpec, config: Config) -> None:
        super().__init__()
        layers = make_network(spec, config.network, 1).layers
        # torch's stubs lack this overload, its documentation has it
        self._layers = layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._joins_stack = spec.frame.is_picture

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        x = observations.flatten(1, 2) if self._joins_stack else observations
        q: torch.Tensor = self._layers(x)
        return q

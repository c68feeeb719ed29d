"""Learner: samples, trains the policy network, syncs the target network, publishes weights."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from common import wire
from common.config import Config
from common.errors import EmptyMemoryError, RemoteDiedError, UserError
from common.handles import Handle
from common.item import item_of
from common.networks import choose_device, describe_device, make_network, shape_difference
from common.parts import WEIGHT_STORE, PartId, shard
from common.schedule import linear_or_constant
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import Array, EnvironmentSpec, LearnerReport, Transition
from common.weights import pack_weights, unpack_weights
from learner.optimizer import Optimizer
from learner.prefetch import DeviceBatchGroup, Stager
from learner.threads import Threads
from learner.update import Update
from replay_server.sampler import BatchGroup, ReplaySampler


@dataclass(slots=True)
class _Published:
    """Publications since the last report.

    Attributes:
        count: how many. seconds: that they took.
        nbytes: of the newest. at_s: when it was made, by the monotonic clock.
    """

    count: int = 0
    seconds: float = 0.0
    nbytes: int = 0
    at_s: float = 0.0

    def add(self, begin_s: float, end_s: float, nbytes: int) -> None:
        self.count += 1
        self.seconds += end_s - begin_s
        self.nbytes, self.at_s = nbytes, end_s


@dataclass(slots=True)
class _Means:
    """Running sums, for the means of a report."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def mean(self, name: str) -> float:
        return self.sums.get(name, 0.0) / self.steps if self.steps else float("nan")


class Learner:
    """Deep Q-learning on batches from the replay memory (Mnih et al. 2015, algorithm 1)."""

    def __init__(
        self,
        config: Config,
        spec: EnvironmentSpec,
        shards: list[Handle],
        weight_store: Handle,
        incarnation: int = 0,
        state: Array | None = None,
        initial: Array | None = None,
    ) -> None:
        """A learner that has published its weights: random, given, or those of a checkpoint.

        Args:
            config: of the run.
            spec: of the environment.
            shards: of the replay memory.
            weight_store: to publish weights in. Versions continue from its newest.
            incarnation: gives other samples than earlier incarnations drew. The first weights
                depend on the seed alone.
            state: result of `state`, to continue from.
            initial: weights (wire format) to begin with, where there is no state.

        Raises:
            UserError: the state is of another network.
        """
        self._config = config
        learner = config.learner
        self._threads = Threads(learner)
        self._device = choose_device(learner.device)
        self._described = describe_device(self._device)
        (weight_seed,) = integer_seeds(seed_sequence(config.seed, Role.NETWORK), 1)
        self._policy = make_network(spec, config.network, weight_seed).to(self._device)
        self._target = make_network(spec, config.network, weight_seed).to(self._device)
        # Only the policy network's steps change what spectral norms keep.
        self._target.requires_grad_(False).eval()
        self._sync_target()
        self._optimizer = Optimizer(self._policy.parameters(), learner)
        self._update = Update(config, self._policy, self._target, self._optimizer, self._device)
        self._shards = list(shards)
        self._sampler = self._make_sampler(incarnation)
        self._stager = Stager(self._device, item_of(spec))
        self._weight_store = weight_store
        self._variables_lost = False
        self._steps = self._target_syncs = 0
        self._version = -1
        with suppress(RemoteDiedError):  # `publish` reports it
            self._version = weight_store.call("newest_version").result()
        self._published = _Published()
        # The batch group in training, and which of its batches is next.
        self._group: BatchGroup | None = None
        self._device_group: DeviceBatchGroup | None = None
        self._next_batch = 0
        self._priorities: Array = np.zeros((learner.batches_per_sample, learner.batch_size))
        if state is not None:
            self._load_state(state)
        elif initial is not None:
            tensors, _ = unpack_weights(initial)
            self._policy.load_state_dict(tensors)
            self._sync_target()
        self.publish()

    def _make_sampler(self, incarnation: int) -> ReplaySampler:
        config, learner = self._config, self._config.learner
        return ReplaySampler(
            self._shards,
            learner.batch_size,
            learner.batches_per_sample,
            learner.samples_in_flight,
            config.replay.beta,
            np.random.default_rng(seed_sequence(config.seed, Role.SAMPLER, 0, incarnation)),
        )

    def _beta(self) -> float:
        replay = self._config.replay
        return linear_or_constant(self._steps, replay.beta, replay.beta_end, replay.beta_steps)

    def new_attempt(self, incarnation: int) -> None:
        """Continue as a learner made from `state` at this moment would."""
        self._sampler = self._make_sampler(incarnation)
        self._group = self._device_group = None
        self.publish()

    def reconnect(self, part: PartId, handle: Handle) -> None:
        """Use this handle of the weight store, or of a shard, which was restarted."""
        if part == WEIGHT_STORE:
            self._weight_store, self._variables_lost = handle, False
            self._version = max(self._version, handle.call("newest_version").result())
            self.publish()
        else:
            self._shards[part.index] = handle
            self._sampler.reconnect(part.index, handle)

    def train(self, steps: int) -> LearnerReport:
        """Make `steps` updates, or fewer if shards died and the memory is empty.

        A loss that is not finite stops training before the update; the report then says so.
        """
        start = time.perf_counter()
        waited = self._sampler.wait_s
        means = _Means()
        diverged: Array | None = None
        for _ in range(steps):
            try:
                self._sampler.beta = self._beta()
                group, device_group, number = self._take_batch()
            except EmptyMemoryError:
                break
            transition, weight = device_group.batch(number)
            step = self._update.step(self._steps, transition, weight)
            if step is None:
                diverged = self._encode_batch(transition, weight)
                self._group = self._device_group = None
                break
            self._priorities[number] = step.priorities
            versions = np.concatenate([sample["version"] for sample in group.samples])
            means.add(
                loss=step.loss,
                mean_q=step.mean_q,
                grad_norm=step.grad_norm,
                td_error=step.td_error,
                weight_lag=self._version - float(versions[group.rows[number]].mean()),
                data_age=float(group.ages[number].mean()),
            )
            if number + 1 == len(group.rows):
                self._sampler.update_priorities(group, self._priorities)
                self._group = self._device_group = None
            self._finish_step()
        wall_s, waited_s = time.perf_counter() - start, self._sampler.wait_s - waited
        self._threads.add(means.steps, wall_s - waited_s)
        return self._report(means, wall_s, waited_s, diverged)

    def _report(
        self, means: _Means, wall_s: float, waited_s: float, diverged: Array | None
    ) -> LearnerReport:
        published, self._published.count = self._published.count, 0
        publishing_s, self._published.seconds = self._published.seconds, 0.0
        return LearnerReport(
            learner_steps=self._steps,
            steps=means.steps,
            samples=means.steps * self._config.learner.batch_size,
            version=self._version,
            target_syncs=self._target_syncs,
            loss=means.mean("loss"),
            mean_q=means.mean("mean_q"),
            td_error=means.mean("td_error"),
            grad_norm=means.mean("grad_norm"),
            weight_lag=means.mean("weight_lag"),
            data_age=means.mean("data_age"),
            replay=self._sampler.summaries,
            rounds_in_flight=self._sampler.in_flight,
            wall_s=wall_s,
            sample_wait_s=waited_s,
            unreachable=[*map(shard, sorted(self._sampler.unreachable))]
            + [WEIGHT_STORE] * self._variables_lost,
            device=self._described,
            threads=self._threads.count,
            publications=published,
            publishing_s=publishing_s,
            weights_bytes=self._published.nbytes,
            diverged=diverged is not None,
            batch=diverged,
        )

    def _finish_step(self) -> None:
        """Count a step; sync the target network and publish weights where they are due."""
        self._steps += 1
        learner = self._config.learner
        if learner.target_tau is not None:
            self._move_target(learner.target_tau)
        elif self._steps % learner.target_sync_steps == 0:
            self._sync_target()
            self._target_syncs += 1
        due = self._steps % learner.publish_steps == 0
        if due and monotonic() - self._published.at_s >= learner.publish_s:
            self.publish()

    def publish(self) -> None:
        """Publish the current weights under a new version."""
        start = monotonic()
        self._version += 1
        weights = pack_weights(self._policy.state_dict(), {"learner_steps": self._steps})
        shared = self._weight_store.share(weights)
        try:
            self._weight_store.call("publish", self._version, shared).result()
        except RemoteDiedError:  # `reconnect` publishes again
            self._variables_lost = True
        self._published.add(start, monotonic(), weights.nbytes)

    def state(self) -> Array:
        """Networks, optimiser and counters, to continue from (wire format)."""
        tensors: dict[str, Tensor] = {}
        for prefix, network in (("policy", self._policy), ("target", self._target)):
            for name, tensor in network.state_dict().items():
                tensors[f"{prefix}.{name}"] = tensor
        for name, tensor in self._optimizer.state().items():
            tensors[f"optimizer.{name}"] = tensor
        meta = {
            "learner_steps": self._steps,
            "version": self._version,
            "target_syncs": self._target_syncs,
        }
        return pack_weights(tensors, meta)

    def _load_state(self, buffer: Array) -> None:
        arrays, meta = wire.decode(buffer)
        for name, array in arrays.items():
            if array.dtype != np.float32:
                raise UserError(
                    f"checkpoint is of another network: {name} is {array.dtype} and must be float32"
                )
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
        for prefix, network in (("policy", self._policy), ("target", self._target)):
            part = _below(tensors, prefix)
            difference = shape_difference(part, network.state_dict())
            if difference is not None:
                raise UserError(f"checkpoint is of another network: {difference}")
            network.load_state_dict(part)
        self._steps = int(meta["learner_steps"])
        self._load_optimizer(_below(tensors, "optimizer"))
        self._target_syncs = int(meta["target_syncs"])
        self._version = max(self._version, int(meta["version"]))

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Load the optimiser's state; checks its shapes, because fused steps do not."""
        if (
            not tensors and self._steps == 0
        ):  # earlier releases saved no moments before the first step
            return
        difference = shape_difference(tensors, self._optimizer.state())
        if difference is not None:
            raise UserError(f"checkpoint is of another network: optimizer.{difference}")
        self._optimizer.load(tensors)

    def _take_batch(self) -> tuple[BatchGroup, DeviceBatchGroup, int]:
        if self._group is None or self._device_group is None:
            self._group = self._sampler.next_group()
            self._device_group = self._stager.stage(self._group)
            self._next_batch = 0
            self._group.release()
        number = self._next_batch
        self._next_batch += 1
        return self._group, self._device_group, number

    @torch.no_grad()
    def _move_target(self, share: float) -> None:
        """Move each weight of the target network towards the policy network's."""
        ours: list[Tensor] = list(self._target.parameters())
        theirs: list[Tensor] = list(self._policy.parameters())
        torch._foreach_lerp_(ours, theirs, share)
        for mine, new in zip(self._target.buffers(), self._policy.buffers(), strict=True):
            mine.copy_(new)

    def _sync_target(self) -> None:
        self._target.load_state_dict(self._policy.state_dict())

    @staticmethod
    def _encode_batch(transition: Transition, weight: Tensor) -> Array:
        columns = {
            name: column.cpu().numpy()
            for name, column in transition._asdict().items()
            if column is not None
        }
        return wire.encode({**columns, "weight": weight.cpu().numpy()})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }

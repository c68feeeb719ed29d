"""Learner: samples, trains the policy network, syncs the target network, publishes weights."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common import wire
from common.config import Config
from common.errors import EmptyMemoryError, RemoteDiedError, UserError
from common.handles import Handle
from common.networks import choose_device, make_network, shape_difference
from common.parts import WEIGHT_STORE, PartId, shard
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import Array, EnvironmentSpec, LearnerReport, Transition
from common.weights import pack_weights
from learner.losses import bellman_target, taken, weighted_loss
from learner.optimizer import Adam
from learner.prefetch import DeviceRound, Stager
from replay_server.client import ReplaySampler, Round


@dataclass(slots=True)
class _Means:
    """Running sums of what a report gives the means of."""

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
        variables: Handle,
        incarnation: int = 0,
        state: Array | None = None,
    ) -> None:
        """A learner whose weights are published: random ones, or those of an earlier life.

        Args:
            config: of the run.
            spec: of the environment.
            shards: of the replay memory.
            variables: where weights are published. Versions go on from the newest there.
            incarnation: gives other samples than those of earlier lives; the first weights are
                the seed's alone.
            state: what `state` returned in the life to go on from.

        Raises:
            UserError: the state of another network.
        """
        self._config = config
        learner = config.learner
        torch.set_num_threads(learner.threads)
        self._device = choose_device(learner.device)
        (weight_seed,) = integer_seeds(seed_sequence(config.seed, Role.NETWORK), 1)
        self._policy = make_network(spec, config.network, weight_seed).to(self._device)
        self._target = make_network(spec, config.network, weight_seed).to(self._device)
        self._target.requires_grad_(False)
        self._sync_target()
        parameters = self._policy.parameters()
        self._optimizer = Adam(parameters, learner.learning_rate, learner.adam_epsilon)
        self._shards = list(shards)
        self._sampler = self._make_sampler(incarnation)
        self._stager = Stager(self._device)
        self._weight_store = variables
        self._variables_lost = False
        self._steps = 0
        self._version = -1
        with suppress(RemoteDiedError):  # publishing finds it out, too
            self._version = variables.call("newest_version").result()
        self._target_syncs = 0
        # The round being trained on: its batches go one by one.
        self._round: Round | None = None
        self._device_round: DeviceRound | None = None
        self._next_batch = 0
        self._priorities: Array = np.zeros((learner.batches_per_sample, learner.batch_size))
        if state is not None:
            self._load_state(state)
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

    def new_attempt(self, incarnation: int) -> None:
        """Go on as a learner would that was made from `state` at this moment."""
        self._sampler = self._make_sampler(incarnation)
        self._round = self._device_round = None
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
        """`steps` updates, fewer if the memory is empty because shards died.

        On a loss that is not finite it stops before the update, and says so.
        """
        start = time.perf_counter()
        waited = self._sampler.wait_s
        means = _Means()
        diverged: Array | None = None
        for _ in range(steps):
            try:
                round_, device_round, number = self._take_batch()
            except EmptyMemoryError:
                break
            transition, weight = device_round.batch(number)
            step = self._update(transition, weight)
            if step is None:
                diverged = self._encode_batch(transition, weight)
                self._round = self._device_round = None
                break
            loss, mean_q, grad_norm, td_error = step
            self._priorities[number] = td_error
            versions = np.concatenate([sample.version for sample in round_.samples])
            means.add(
                loss=loss,
                mean_q=mean_q,
                grad_norm=grad_norm,
                td_error=float(td_error.mean()),
                weight_lag=self._version - float(versions[round_.rows[number]].mean()),
                data_age=float(round_.ages[number].mean()),
            )
            if number + 1 == len(round_.rows):
                self._sampler.update_priorities(round_, self._priorities)
                self._round = self._device_round = None
            self._steps += 1
            if self._steps % self._config.learner.target_sync_steps == 0:
                self._sync_target()
                self._target_syncs += 1
            if self._steps % self._config.learner.publish_steps == 0:
                self.publish()
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
            wall_s=time.perf_counter() - start,
            sample_wait_s=self._sampler.wait_s - waited,
            unreachable=[*map(shard, sorted(self._sampler.unreachable))]
            + [WEIGHT_STORE] * self._variables_lost,
            diverged=diverged is not None,
            batch=diverged,
        )

    def publish(self) -> None:
        """Offer the weights as they are now to whoever fetches; each time a new version."""
        self._version += 1
        weights = pack_weights(self._policy.state_dict(), {"learner_steps": self._steps})
        shared = self._weight_store.share(weights)
        try:
            self._weight_store.call("publish", self._version, shared).result()
        except RemoteDiedError:  # published anew when others take their place
            self._variables_lost = True

    def state(self) -> Array:
        """Everything needed to go on: networks, optimiser, counters (wire format)."""
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
        """Take over Adam's moments. Its fused step believes whatever sizes it is given."""
        if not tensors and self._steps == 0:  # an earlier version had none before the first step
            return
        difference = shape_difference(tensors, self._optimizer.state())
        if difference is not None:
            raise UserError(f"checkpoint is of another network: optimizer.{difference}")
        self._optimizer.load(tensors)

    def _take_batch(self) -> tuple[Round, DeviceRound, int]:
        if self._round is None or self._device_round is None:
            self._round = self._sampler.next_round()
            self._device_round = self._stager.stage(self._round)
            self._next_batch = 0
            self._round.release()
        number = self._next_batch
        self._next_batch += 1
        return self._round, self._device_round, number

    def _update(
        self, transition: Transition, weight: Tensor
    ) -> tuple[float, float, float, Array] | None:
        """One gradient step; None, and no step, if the loss or its gradient is not finite.

        Returns:
            loss, mean q(s, a), norm of the gradient before clipping, |TD error| `[B]`.
        """
        learner = self._config.learner
        with torch.no_grad():
            next_q = self._target(transition.next_observation)
            next_q_policy = self._policy(transition.next_observation) if learner.double else None
            target = bellman_target(transition.reward, transition.discount, next_q, next_q_policy)
        q = taken(self._policy(transition.observation), transition.action)
        td_error = target - q
        loss = weighted_loss(td_error, weight, learner.huber_delta)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._policy.parameters(), learner.max_grad_norm)
        numbers = torch.stack((loss.detach(), q.detach().mean(), norm)).tolist()
        if not np.isfinite(numbers).all():
            return None
        self._optimizer.step()
        return (*numbers, td_error.detach().abs().cpu().numpy())

    def _sync_target(self) -> None:
        self._target.load_state_dict(self._policy.state_dict())

    @staticmethod
    def _encode_batch(transition: Transition, weight: Tensor) -> Array:
        columns = {name: column.cpu().numpy() for name, column in transition._asdict().items()}
        return wire.encode({**columns, "weight": weight.cpu().numpy()})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }

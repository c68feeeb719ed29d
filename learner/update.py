"""One gradient step: the losses of a batch, their gradient, and the optimiser."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.config import Config
from common.losses import weighted_mean
from common.networks import QNetwork, noisy_layers
from common.schedule import linear_or_constant
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import Array, Transition
from learner.objectives import ItemLosses, make_objective
from learner.optimizer import Optimizer, limit_norm, total_norm
from learner.precision import Forward


class StepResult(NamedTuple):
    """Numbers of one step.

    Attributes:
        loss: mean over the batch, weighted.
        mean_q: mean q(s, a).
        grad_norm: of the gradient before it is limited.
        td_error: mean |target − q(s, a)|; of a distribution, the means count.
        priorities: `[B]`, |TD error|, or the loss of a distribution.
    """

    loss: float
    mean_q: float
    grad_norm: float
    td_error: float
    priorities: Array


class Update:
    """Trains the policy network on batches, one gradient step each."""

    def __init__(
        self,
        config: Config,
        policy: QNetwork,
        target: QNetwork,
        optimizer: Optimizer,
        device: torch.device,
    ) -> None:
        """For networks of one kind, on `device`."""
        learner = config.learner
        self._policy = policy
        self._target = target
        self._optimizer = optimizer
        self._config = learner
        forward = Forward(learner.precision, device)
        self._objective = make_objective(learner, config.network.head, forward)
        self._seed = config.seed
        self._generator = torch.Generator()
        self._noisy = [*noisy_layers(policy), *noisy_layers(target)]
        self._is_random = bool(self._noisy) or config.network.head == "implicit-quantile"

    def step(self, number: int, batch: Transition, weight: Tensor) -> StepResult | None:
        """One gradient step; None, and no step, if the loss or its gradient is not finite.

        Args:
            number: learner steps before this one. Random numbers depend on it and the run's seed
                alone.
            batch: `[B]` transitions.
            weight: `[B]`, importance weights.
        """
        loss, item = self.losses(number, batch, weight)
        norm = self.gradient(loss)
        numbers = torch.stack((loss.detach(), item.q.mean(), norm)).tolist()
        if not np.isfinite(numbers).all():
            return None
        self.change(number)
        mean_loss, mean_q, grad_norm = numbers
        priorities = item.priority.cpu().numpy()
        errors = priorities if item.td_error is item.priority else item.td_error.cpu().numpy()
        return StepResult(mean_loss, mean_q, grad_norm, float(errors.mean()), priorities)

    def losses(self, number: int, batch: Transition, weight: Tensor) -> tuple[Tensor, ItemLosses]:
        """The loss, a scalar with gradient, and that of each item; for the arguments see `step`."""
        if self._is_random:
            # torch's generator takes 32 bits of a seed: too few for the run's and the step's.
            (seed,) = integer_seeds(seed_sequence(self._seed, Role.LEARNER, number), 1)
            self._generator.manual_seed(seed)
            for layer in self._noisy:
                layer.resample(self._generator)
        item = self._objective(self._policy, self._target, batch, self._generator)
        return weighted_mean(item.loss, weight), item

    def gradient(self, loss: Tensor) -> Tensor:
        """Compute the gradient and limit it; the norm that it had before, a scalar."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return self._clip()

    def change(self, number: int) -> None:
        """Change the parameters by the gradient, after `number` steps before."""
        config = self._config
        end, steps = config.learning_rate_end, config.learning_rate_steps
        self._optimizer.step(linear_or_constant(number, config.learning_rate, end, steps))

    def _clip(self) -> Tensor:
        """Limit the gradient, each number first; the norm that it had before."""
        gradients, config = self._optimizer.gradients(), self._config
        norm = total_norm(gradients)
        if config.max_grad_value is None:
            limit_norm(gradients, norm, config.max_grad_norm)
            return norm
        limit = config.max_grad_value
        torch._foreach_clamp_min_(gradients, -limit)
        torch._foreach_clamp_max_(gradients, limit)
        limit_norm(gradients, total_norm(gradients), config.max_grad_norm)
        return norm

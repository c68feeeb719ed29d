"""Optimisers, with access to their state.

torch's classes import its compiler at their first call, which costs every learner a second of CPU
and 70 MiB when it starts, and they sort the parameters by device and type at each step. Here, all
are on one device; Adam, AdamW and the limit of the norm call the same kernels: no bit differs.
torch's RMSProp has ε outside of the root, and gives NaN where a gradient stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from common.config_learner import LearnerConfig

BETAS = (0.9, 0.999)
STEP, MEAN, MEAN_OF_SQUARES = "step", "exp_avg", "exp_avg_sq"
RMS_MEAN, RMS_MEAN_OF_SQUARES = "grad_avg", "square_avg"
SLOTS = {
    "adam": (STEP, MEAN, MEAN_OF_SQUARES),
    "adamw": (STEP, MEAN, MEAN_OF_SQUARES),
    "rmsprop": (STEP, RMS_MEAN, RMS_MEAN_OF_SQUARES),
}
"""Names of the tensors that an optimiser keeps for each parameter."""


class Optimizer:
    """Changes parameters by their gradients.

    `adam` is Kingma and Ba 2015, `adamw` has decoupled weight decay (Loshchilov and Hutter 2019),
    `rmsprop` is centred, with ε inside the root, as in Mnih et al. 2015 and Ape-X.
    """

    def __init__(self, parameters: Iterable[Tensor], config: LearnerConfig) -> None:
        """At step 0.

        Args:
            parameters: float32, all on one device; `step` changes those in place that require a
                gradient.
            config: kind and constants.
        """
        self._config = config
        self._parameters = [p for p in parameters if p.requires_grad]
        self._slots: dict[str, list[Tensor]] = {}
        for name in SLOTS[config.optimizer]:
            # In the memory layout of the parameters (channels last), which fused kernels require.
            self._slots[name] = [torch.zeros_like(p) for p in self._parameters if name != STEP]
        first = self._parameters[0]
        self._steps = torch.zeros(len(self._parameters), device=first.device)
        self._slots[STEP] = list(self._steps)  # views

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters, in their order; each parameter must have one."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        assert len(gradients) == len(self._parameters)
        return gradients

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change all parameters by their gradients; each must have one."""
        gradients, config, slots = self.gradients(), self._config, self._slots
        self._steps += 1.0
        if config.optimizer == "rmsprop":
            self._rmsprop(gradients, learning_rate)
            return
        if config.optimizer == "adamw":
            torch._foreach_mul_(self._parameters, 1.0 - learning_rate * config.weight_decay)
        torch._fused_adam_(
            self._parameters,
            gradients,
            slots[MEAN],
            slots[MEAN_OF_SQUARES],
            [],
            slots[STEP],
            amsgrad=False,
            lr=learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=config.adam_epsilon,
            maximize=False,
        )

    def _rmsprop(self, gradients: list[Tensor], learning_rate: float) -> None:
        """θ ← θ − α·g / √(E[g²] − E[g]² + ε) (Graves 2013, equations 38 to 45; no momentum)."""
        decay = self._config.rmsprop_decay
        means, squares = self._slots[RMS_MEAN], self._slots[RMS_MEAN_OF_SQUARES]
        torch._foreach_lerp_(means, gradients, 1.0 - decay)
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - decay)
        roots = torch._foreach_addcmul(squares, means, means, -1.0)
        torch._foreach_clamp_min_(roots, 0.0)  # rounding makes a variance of 0 negative
        torch._foreach_add_(roots, self._config.adam_epsilon)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(self._parameters, gradients, roots, -learning_rate)

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, by `INDEX.SLOT`: of each parameter its steps and averages."""
        return {
            f"{index}.{name}": tensors[index]
            for index in range(len(self._parameters))
            for name, tensors in self._slots.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors of `state`, of the same names and shapes, from any device."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers, as `torch.nn.utils.get_total_norm` computes it."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def limit_norm(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale to a norm of at most `limit`, in place, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        gradients: on one device.
        norm: of `gradients`, a scalar there.
        limit: of the norm.
    """
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))

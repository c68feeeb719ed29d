"""Optimisers by torch's functions, with access to their state.

torch's classes import its compiler at their first call, which costs every learner a second of CPU
and 70 MiB when it starts. The functions compute the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

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
    `rmsprop` is centred (Graves 2013), with ε outside of the root as in torch.
    """

    def __init__(self, parameters: Iterable[Tensor], config: LearnerConfig) -> None:
        """At step 0.

        Args:
            parameters: float32, all on one device; `step` changes them in place.
            config: kind and constants.
        """
        self._config = config
        self._parameters = list(parameters)
        self._slots: dict[str, list[Tensor]] = {}
        for name in SLOTS[config.optimizer]:
            # In the memory layout of the parameters (channels last), which fused kernels require.
            self._slots[name] = [
                torch.zeros((), device=p.device) if name == STEP else torch.zeros_like(p)
                for p in self._parameters
            ]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change all parameters by their gradients; each must have one."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        assert len(gradients) == len(self._parameters)
        config, slots = self._config, self._slots
        if config.optimizer == "rmsprop":
            rmsprop(
                self._parameters,
                gradients,
                slots[RMS_MEAN_OF_SQUARES],
                slots[RMS_MEAN],
                [],
                slots[STEP],
                foreach=True,
                lr=learning_rate,
                alpha=config.rmsprop_decay,
                eps=config.adam_epsilon,
                weight_decay=0.0,
                momentum=0.0,
                centered=True,
            )
            return
        if config.optimizer == "adamw":
            torch._foreach_mul_(self._parameters, 1.0 - learning_rate * config.weight_decay)
        adam(
            self._parameters,
            gradients,
            slots[MEAN],
            slots[MEAN_OF_SQUARES],
            [],
            slots[STEP],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=config.adam_epsilon,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, by `INDEX.SLOT`: of each parameter its steps and two moments."""
        return {
            f"{index}.{name}": tensors[index]
            for index in range(len(self._parameters))
            for name, tensors in self._slots.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors of `state`, of the same names and shapes, from any device."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])

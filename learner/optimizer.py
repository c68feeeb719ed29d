"""Adam (Kingma and Ba 2015) by torch's fused kernel, with access to its state."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
STEP, MEAN, MEAN_OF_SQUARES = "step", "exp_avg", "exp_avg_sq"


class Adam:
    """Computes the same as `torch.optim.Adam(parameters, fused=True)`, bit for bit.

    That class imports torch's compiler at its first call, which costs every learner a second of CPU
    and 70 MiB when it starts.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, epsilon: float) -> None:
        """At step 0.

        Args:
            parameters: float32, all on one device; `step` changes them in place.
            learning_rate: α.
            epsilon: ε, added to the root of the mean of squares.
        """
        self._parameters = list(parameters)
        self._learning_rate = learning_rate
        self._epsilon = epsilon
        # In the memory layout of the parameters (channels last), which the fused kernel requires.
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), device=p.device) for p in self._parameters]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change all parameters by their gradients; each must have one."""
        gradients = [parameter.grad for parameter in self._parameters]
        assert all(gradient is not None for gradient in gradients)
        adam(
            self._parameters,
            gradients,  # type: ignore[arg-type]
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=self._epsilon,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, by `INDEX.SLOT`: of each parameter its steps and two moments."""
        found: dict[str, Tensor] = {}
        slots = zip(self._steps, self._means, self._squares, strict=True)
        for index, (step, mean, square) in enumerate(slots):
            found[f"{index}.{STEP}"] = step
            found[f"{index}.{MEAN}"] = mean
            found[f"{index}.{MEAN_OF_SQUARES}"] = square
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors of `state`, of the same names and shapes, from any device."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])

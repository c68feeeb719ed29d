"""Value rescaling: learning h(return) in place of the return (Pohlen et al. 2018, section 3.2)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-3
"""The slope of h far from 0; it makes h invertible (R2D2: Kapturowski et al. 2019, section 2.3)."""


def rescale(x: Tensor) -> Tensor:
    """h(x) = sign(x)(√(|x| + 1) − 1) + εx, element-wise."""
    size = x.abs()
    # √(|x| + 1) − 1, without the cancellation near 0
    return x.sign() * size / ((size + 1).sqrt() + 1) + EPSILON * x


def unscale(x: Tensor) -> Tensor:
    """h⁻¹(x), element-wise (Pohlen et al. 2018, proposition A.2)."""
    shifted = x.abs() + (1 + EPSILON)
    # (√(1 + 4ε(|x| + 1 + ε)) − 1) / 2ε, without the cancellation
    root = 2 * shifted / ((1 + 4 * EPSILON * shifted).sqrt() + 1)
    return x.sign() * (root.square() - 1)


def backup(reward: Tensor, discount: Tensor, value: Tensor, rescaled: bool) -> Tensor:
    """The target of a value: reward + discount · value, or h(reward + discount · h⁻¹(value)).

    Args:
        reward: n-step return. discount: of `value`. value: of the next state.
        rescaled: whether `value` and the target are rescaled ones.
    """
    if not rescaled:
        return reward + discount * value
    return rescale(reward + discount * unscale(value))

"""Five tiny decision problems whose values are known, as one batch of transitions.

The idea is rejax's: a constant reward, a reward after a delay, the better of two actions, a
two-armed bandit with random rewards, and a chain that a time limit cuts off.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from common.types import EnvironmentSpec, FrameSpec, Transition

GAMMA = 0.5


class Row(NamedTuple):
    """A transition between numbered states; the discount is 0 where the episode terminates."""

    state: int
    action: int
    reward: float
    discount: float
    next_state: int


CONSTANT, DELAYED, LATER, CHOICE, BEFORE, BANDIT, CUT_OFF = range(7)
STATES = 7
ROWS = [
    *(Row(CONSTANT, a, 1.0, 0.0, CONSTANT) for a in (0, 1)),
    *(Row(DELAYED, a, 0.0, GAMMA, LATER) for a in (0, 1)),
    *(Row(LATER, a, 1.0, 0.0, LATER) for a in (0, 1)),
    *(Row(CHOICE, a, float(a), 0.0, CHOICE) for a in (0, 1)),
    *(Row(BEFORE, a, 0.0, GAMMA, CHOICE) for a in (0, 1)),
    *(Row(BANDIT, 0, reward, 0.0, BANDIT) for reward in (-1.0, 1.0)),
    *(Row(BANDIT, 1, 0.5, 0.0, BANDIT) for _ in range(2)),
    *(Row(CUT_OFF, a, 1.0, GAMMA, CUT_OFF) for a in (0, 1)),
]
SPEC = EnvironmentSpec(FrameSpec((STATES,), "float32", 1.0), 1, 2, {})
"""Of the problems: the state is a one-hot vector, and there are two actions."""
VALUES = {
    (CONSTANT, 0): 1.0,
    (DELAYED, 0): GAMMA,
    (CHOICE, 1): 1.0,
    (BEFORE, 0): GAMMA,
    (BANDIT, 0): 0.0,
    (BANDIT, 1): 0.5,
    (CUT_OFF, 0): 1.0 / (1.0 - GAMMA),
}
"""q(state, action)."""


def one_hot(states: list[int]) -> torch.Tensor:
    """`[B, 1, STATES]` float32."""
    return torch.nn.functional.one_hot(torch.tensor(states), STATES).float()[:, None]


def batch() -> Transition:
    """All transitions, once each."""
    return Transition(
        observation=one_hot([row.state for row in ROWS]),
        action=torch.tensor([row.action for row in ROWS]),
        reward=torch.tensor([row.reward for row in ROWS]),
        discount=torch.tensor([row.discount for row in ROWS]),
        next_observation=one_hot([row.next_state for row in ROWS]),
    )

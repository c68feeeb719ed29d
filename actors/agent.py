"""The agent: explores or exploits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from common.networks import QNetwork
from common.types import Array
from common.weights import unpack_weights


class Choice(NamedTuple):
    """What the agent did, and what it thought of it."""

    actions: Array  # [N] int64
    q_taken: Array  # [N] float32, q(s, a) of the action chosen
    q_max: Array  # [N] float32, the greatest q(s, ·)


class Agent:
    """Chooses actions for N copies at once with one pass through the policy network."""

    def __init__(self, network: QNetwork, device: torch.device, rng: np.random.Generator) -> None:
        """The network is moved to `device` and never trained here."""
        self._network = network.to(device).eval()
        self._device = device
        self._rng = rng
        self.learner_steps = 0  # when the weights in use were published

    def load_weights(self, buffer: Array) -> None:
        """Take over published weights (wire format)."""
        state, meta = unpack_weights(buffer)
        self._network.load_state_dict(state)
        self.learner_steps = int(meta["learner_steps"])

    @torch.no_grad()
    def select_actions(self, stacks: Array, epsilons: Array) -> Choice:
        """With probability ε a random action, else the one of the greatest q value.

        Args:
            stacks: `[N, S, *frame]`.
            epsilons: `[N]`.
        """
        q = self._network(torch.from_numpy(stacks).to(self._device)).cpu().numpy()  # [N, A]
        greedy = q.argmax(axis=1)
        # Always as many random numbers, whatever ε: a run stays comparable when ε changes.
        explore = self._rng.random(len(q)) < epsilons
        actions = np.where(explore, self._rng.integers(q.shape[1], size=len(q)), greedy)
        return Choice(actions, q[np.arange(len(q)), actions], q.max(axis=1))

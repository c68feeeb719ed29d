"""The agent: explores or exploits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from common.networks import QNetwork, noisy_layers
from common.types import Array
from common.weights import unpack_weights


class Choice(NamedTuple):
    """The chosen actions, and the outputs of the network's head for them.

    Z is 1 for Q values, or the numbers of a distribution (`QNetwork.outputs`) for an agent that
    explores.
    """

    actions: Array  # [N] int64
    taken: Array  # [N, Z] float32, of the action chosen
    best: Array  # [N, Z] float32, of the legal action with the greatest Q value


class Agent:
    """Chooses actions for N copies at once with one pass through the policy network."""

    def __init__(
        self,
        network: QNetwork,
        device: torch.device,
        rng: np.random.Generator,
        explores: bool = False,
    ) -> None:
        """Moves the network to `device`; nothing trains it here.

        Args:
            network: the policy network.
            device: to compute on.
            rng: of random actions.
            explores: its experience is learnt from, and noisy layers have other noise for each
                choice; otherwise they have none.
        """
        self._network = network.to(device).eval()
        self._device = device
        self._rng = rng
        self._explores = explores
        self._noisy = [*noisy_layers(network)] if explores else []
        self._noise = torch.Generator()
        if self._noisy:
            self._noise.manual_seed(int(rng.integers(1 << 31)))
        self.learner_steps = 0  # of the learner, when it published the weights in use

    def load_weights(self, buffer: Array) -> None:
        """Use published weights (wire format) from now on."""
        state, meta = unpack_weights(buffer)
        self._network.load_state_dict(state)
        self.learner_steps = int(meta["learner_steps"])

    @torch.no_grad()
    def select_actions(self, stacks: Array, epsilons: Array, legal: Array | None = None) -> Choice:
        """Choose a random action with probability ε, else the action of the greatest Q value.

        Args:
            stacks: `[N, S, *frame]`.
            epsilons: `[N]`.
            legal: `[N, A]` bool, the legal actions, at least one for each copy; None: all.
        """
        for layer in self._noisy:
            layer.resample(self._noise)
        given = self._network.outputs(torch.from_numpy(stacks).to(self._device))
        q = self._network.values(given).cpu().numpy()  # [N, A]
        outputs = q[..., None]  # [N, A, Z]
        if self._explores and given.dim() == 3:
            outputs = given.cpu().numpy()
        if legal is None:
            greedy = q.argmax(axis=1)
        else:
            q = np.where(legal, q, -np.inf)
            # A legal action is greater than an illegal one, even where its Q value is −∞.
            greedy = np.where(legal, np.maximum(q, np.finfo(q.dtype).min), q).argmax(axis=1)
        # The same number of random numbers for any ε: runs with another ε stay comparable.
        explore = self._rng.random(len(q)) < epsilons
        if legal is None:
            random = self._rng.integers(q.shape[1], size=len(q))
        else:  # the n-th of the legal actions
            # `integers` draws nothing where there is one action.
            number = (self._rng.random(len(q)) * np.count_nonzero(legal, axis=1)).astype(np.int64)
            random = (np.cumsum(legal, axis=1) > number[:, None]).argmax(axis=1)
        actions = np.where(explore, random, greedy)
        rows = np.arange(len(q))
        return Choice(actions, outputs[rows, actions], outputs[rows, greedy])

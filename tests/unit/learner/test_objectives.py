"""Every objective against a loop in numpy, one item at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.config import Config
from common.networks import make_network
from common.types import EnvironmentSpec, FrameSpec, Transition
from learner.objectives import make_objective
from learner.precision import Forward

SPEC = EnvironmentSpec(FrameSpec((3,), "float32", 1.0), 1, 3, {})
B, DELTA = 6, 0.4
HEADS = {
    "value": {},
    "categorical": {"atoms": 5, "value_min": -1.0, "value_max": 1.0},
    "quantile": {"quantiles": 4},
    "implicit-quantile": {"cosines": 4},
}
TARGETS = {
    "max": {"double": False},
    "double": {"double": True},
    "munchausen": {"double": False, "munchausen": True},
    "rescaled": {"double": True, "value_rescaling": True},
}
CASES = [
    (head, target)
    for head in HEADS
    for target in TARGETS
    if head != "categorical" or target in ("max", "double")
]


class Recorded:
    """Calls networks as `Forward` does, and keeps what they gave."""

    def __init__(self):
        self.forward = Forward("fp32", torch.device("cpu"))
        self.calls = []

    def outputs(self, network, observation, taus=None):
        given = self.forward.outputs(network, observation, taus)
        self.calls.append((network, observation, taus, given.detach().double().numpy()))
        return given

    def __call__(self, network, observation):
        return network.values(self.outputs(network, observation))

    def given(self, network, observation, which=0):
        """What the network's head gave for an observation, and the fractions."""
        found = [call for call in self.calls if call[0] is network and call[1] is observation]
        return found[which][3], found[which][2]


def make_batch(masked):
    rng = np.random.default_rng(4)
    legal = np.array([[1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0]])
    return Transition(
        observation=torch.from_numpy(rng.normal(size=(B, 1, 3))).float(),
        action=torch.from_numpy(rng.integers(3, size=B)),
        reward=torch.from_numpy(rng.normal(size=B)).float(),
        discount=torch.tensor([0.9, 0.0, 0.81, 0.9, 0.9, 0.0]),
        next_observation=torch.from_numpy(rng.normal(size=(B, 1, 3))).float(),
        next_mask=torch.from_numpy(legal @ [[1], [2], [4]]).to(torch.uint8) if masked else None,
    )


def legal_actions(batch, i):
    if batch.next_mask is None:
        return [0, 1, 2]
    return [a for a in range(3) if batch.next_mask[i, 0].item() >> a & 1]


def q_of(head, outputs):
    """q(s, ·) of one item's outputs."""
    if head == "value":
        return outputs
    if head == "categorical":
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)) @ np.linspace(-1, 1, 5)
    return outputs.mean(axis=1)


def naive_huber(error):
    return 0.5 * error**2 if abs(error) <= DELTA else DELTA * (abs(error) - 0.5 * DELTA)


def soft(outputs, q, legal, temperature=0.03):
    """Σ π·(number − τ log π), for each number."""
    top = max(q[a] for a in legal)
    shares = {a: np.exp((q[a] - top) / temperature) for a in legal}
    total = sum(shares.values())
    return sum(
        share / total * (outputs[a] - temperature * np.log(share / total))
        for a, share in shares.items()
        if share > 0
    )


def naive_target(head, kind, calls, policy, target, batch, i):
    """The target of the outputs of the action taken: a number, or a row of them."""
    following, _ = calls.given(target, batch.next_observation)
    following, legal = following[i], legal_actions(batch, i)
    reward, discount = batch.reward[i].item(), batch.discount[i].item()
    q = q_of(head, following)
    if kind == "munchausen":
        now, _ = calls.given(target, batch.observation)
        now_q = q_of(head, now[i])
        log_policy = now_q - soft(now_q, now_q, [0, 1, 2])
        bonus = 0.9 * max(-1.0, min(0.0, log_policy[batch.action[i]]))
        return reward + bonus + discount * soft(following, q, legal)
    if kind in ("double", "rescaled"):
        q = q_of(head, calls.given(policy, batch.next_observation)[0][i])
    best = max(legal, key=lambda a: q[a])
    if head == "categorical":
        shares = np.exp(following[best] - following[best].max())
        return reward + discount * np.linspace(-1, 1, 5), shares / shares.sum()
    if kind == "rescaled":
        return h(reward + discount * inverse_of_h(following[best]))
    return reward + discount * following[best]


def h(x):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x


def inverse_of_h(x):
    root = (np.sqrt(1 + 4e-3 * (abs(x) + 1 + 1e-3)) - 1) / 2e-3
    return np.sign(x) * (root**2 - 1)


def naive_item(head, wanted, outputs, taus):
    """Loss and priority of the outputs of one action."""
    if head == "value":
        return naive_huber(wanted - outputs), abs(wanted - outputs)
    if head == "categorical":
        values, shares = wanted
        projected = np.zeros(5)
        for value, share in zip(np.clip(values, -1, 1), shares, strict=True):
            place = (value + 1) / 0.5
            below = min(int(place), 3)
            projected[below] += share * (1 - (place - below))
            projected[below + 1] += share * (place - below)
        log = outputs - outputs.max() - np.log(np.exp(outputs - outputs.max()).sum())
        kept = projected > 0
        loss = -(projected * log).sum()
        return loss, loss + (projected[kept] * np.log(projected[kept])).sum()
    loss = 0.0
    for theta, tau in zip(outputs, taus, strict=True):
        errors = [number - theta for number in wanted]
        loss += np.mean([abs(tau - (e < 0)) * naive_huber(e) / DELTA for e in errors])
    return loss, loss / len(taus)


def q_of_target(head, wanted):
    """The mean of what `naive_target` gave, on the atoms if there are some."""
    if head == "categorical":
        values, shares = wanted
        return np.clip(values, -1, 1) @ shares
    return np.mean(wanted)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(("head", "kind"), CASES)
def test_an_objective_is_its_loop_in_numpy(head, kind, masked):
    config = Config.model_validate(
        {
            "network": {"hidden": (8, 8), "head": head, **HEADS[head]},
            "learner": {"huber_delta": DELTA, "taus": 3, "target_taus": 5, **TARGETS[kind]},
        }
    )
    policy, target = (make_network(SPEC, config.network, seed) for seed in (1, 2))
    batch, calls = make_batch(masked), Recorded()
    objective = make_objective(config.learner, head, calls)
    item = objective(policy, target, batch, torch.Generator().manual_seed(0))

    outputs, taus = calls.given(policy, batch.observation)
    for i in range(B):
        row = outputs[i][batch.action[i]]
        fractions = (np.arange(4) + 0.5) / 4 if taus is None else taus[i].numpy()
        wanted = naive_target(head, kind, calls, policy, target, batch, i)
        q = q_of(head, outputs[i])[batch.action[i]]
        loss, priority = naive_item(head, wanted, row, fractions)
        assert item.loss[i].item() == pytest.approx(loss, rel=1e-4, abs=1e-5)
        assert item.priority[i].item() == pytest.approx(priority, rel=1e-3, abs=1e-5)
        mean = q_of_target(head, wanted)
        assert item.td_error[i].item() == pytest.approx(abs(mean - q), rel=1e-3, abs=1e-5)
        assert item.q[i].item() == pytest.approx(q, rel=1e-4, abs=1e-5)
    assert not item.priority.requires_grad
    assert not item.q.requires_grad
    item.loss.sum().backward()
    assert all(parameter.grad is None for parameter in target.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize(("head", "kind"), CASES)
def test_a_state_after_the_end_without_a_legal_action_gives_finite_losses(
    head, kind, dueling, precision
):
    config = Config.model_validate(
        {
            "network": {"hidden": (8, 8), "head": head, "dueling": dueling, "noisy": dueling},
            "learner": TARGETS[kind],
        }
    )
    policy, target = (make_network(SPEC, config.network, seed) for seed in (1, 2))
    batch = make_batch(masked=True)
    ended = batch.discount == 0
    batch.next_mask[ended] = 0
    forward = Forward(precision, torch.device("cpu"))
    objective = make_objective(config.learner, head, forward)
    item = objective(policy, target, batch, torch.Generator().manual_seed(0))
    for numbers in item:
        assert numbers.dtype == torch.float32
        assert torch.isfinite(numbers).all()

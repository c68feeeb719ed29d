"""Optimisers are those of torch, and need nothing of torch's compiler."""

from __future__ import annotations

import pytest
import torch

from common.config_learner import LearnerConfig
from learner.optimizer import Optimizer, limit_norm, total_norm


def network(channels_last: bool) -> torch.nn.Module:
    torch.manual_seed(1)
    layers = torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3 * 16, 2)
    made = torch.nn.Sequential(*layers)
    return made.to(memory_format=torch.channels_last) if channels_last else made


def gradients(made: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    made(torch.randn(5, 2, 6, 6, generator=generator)).square().mean().backward()


RATE = 1e-2
THEIRS = {
    "adam": lambda p: torch.optim.Adam(p, lr=RATE, eps=1.5e-4, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=RATE, eps=1.5e-4, weight_decay=0.1, fused=True),
}


def make_optimizer(made: torch.nn.Module, kind: str = "adam") -> Optimizer:
    constants = {"adam_epsilon": 1.5e-4, "weight_decay": 0.1, "rmsprop_decay": 0.9}
    return Optimizer(made.parameters(), LearnerConfig(optimizer=kind, **constants))


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_step_is_that_of_torch_bit_for_bit(channels_last, kind):
    ours, theirs = network(channels_last), network(channels_last)
    mine, reference = make_optimizer(ours, kind), THEIRS[kind](theirs.parameters())
    for seed in range(40):
        mine.zero_grad()
        gradients(ours, seed)
        mine.step(RATE)
        reference.zero_grad()
        gradients(theirs, seed)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    expected = {
        f"{index}.{slot}": tensor
        for index, slots in reference.state_dict()["state"].items()
        for slot, tensor in slots.items()
    }
    assert mine.state().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in mine.state().items())


@pytest.mark.parametrize("limit", [1e-3, 0.5, 40.0])
def test_norm_and_limited_gradients_are_those_of_torch_bit_for_bit(limit):
    ours, theirs = network(channels_last=True), network(channels_last=True)
    gradients(ours, 1)
    gradients(theirs, 1)
    mine = make_optimizer(ours).gradients()
    norm = total_norm(mine)
    limit_norm(mine, norm, limit)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit))
    for one, other in zip(mine, theirs.parameters(), strict=True):
        assert torch.equal(one, other.grad)


@pytest.mark.parametrize("kind", [*THEIRS, "rmsprop"])
def test_an_optimizer_with_a_loaded_state_continues_like_the_original(kind):
    first, second = network(True), network(True)
    one = make_optimizer(first, kind)
    for seed in range(5):
        one.zero_grad()
        gradients(first, seed)
        one.step(RATE)
    second.load_state_dict(first.state_dict())
    other = make_optimizer(second, kind)
    # As they come from a file: contiguous, whatever the parameters are.
    other.load({name: tensor.clone().contiguous() for name, tensor in one.state().items()})
    for made, optimizer in ((first, one), (second, other)):
        optimizer.zero_grad()
        gradients(made, 9)
        optimizer.step(RATE)
    for here, there in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(here, there)


def test_rmsprop_is_the_loop_of_its_paper():
    made = network(True)
    optimizer = make_optimizer(made, "rmsprop")
    weights = [p.detach().double().clone() for p in made.parameters()]
    means = [torch.zeros_like(w) for w in weights]
    squares = [torch.zeros_like(w) for w in weights]
    for seed in range(5):
        optimizer.zero_grad()
        gradients(made, seed)
        for w, mean, square, p in zip(weights, means, squares, made.parameters(), strict=True):
            gradient = p.grad.double()
            mean.mul_(0.9).add_(0.1 * gradient)
            square.mul_(0.9).add_(0.1 * gradient**2)
            w -= RATE * gradient / (square - mean**2 + 1.5e-4).sqrt()
        optimizer.step(RATE)
        for w, p in zip(weights, made.parameters(), strict=True):
            assert torch.allclose(p.double(), w, atol=1e-5)


@pytest.mark.parametrize("gradient", [1.0, 0.3, 1e-3])
def test_a_gradient_that_stays_the_same_gives_no_nan(gradient):
    weight = torch.nn.Parameter(torch.zeros(3))
    config = LearnerConfig(optimizer="rmsprop", adam_epsilon=1.5e-7, rmsprop_decay=0.95)
    optimizer = Optimizer([weight], config)
    weight.grad = torch.full((3,), gradient)
    for _ in range(600):  # torch's own gives NaN from step 261 on
        optimizer.step(1e-4)
    assert torch.isfinite(weight).all()

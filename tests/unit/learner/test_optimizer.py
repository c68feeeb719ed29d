"""Optimisers are those of torch, and need nothing of torch's compiler."""

from __future__ import annotations

import pytest
import torch

from common.config_learner import LearnerConfig
from learner.optimizer import Optimizer


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
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=RATE, eps=1.5e-4, alpha=0.9, centered=True),
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


@pytest.mark.parametrize("kind", THEIRS)
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

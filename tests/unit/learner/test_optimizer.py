"""Adam is that of torch, and needs nothing of torch's compiler."""

from __future__ import annotations

import pytest
import torch

from learner.optimizer import Adam


def network(channels_last: bool) -> torch.nn.Module:
    torch.manual_seed(1)
    layers = torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3 * 16, 2)
    made = torch.nn.Sequential(*layers)
    return made.to(memory_format=torch.channels_last) if channels_last else made


def gradients(made: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    made(torch.randn(5, 2, 6, 6, generator=generator)).square().mean().backward()


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_step_is_that_of_torch_bit_for_bit(channels_last):
    ours, theirs = network(channels_last), network(channels_last)
    mine = Adam(ours.parameters(), 1e-2, 1.5e-4)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2, eps=1.5e-4, fused=True)
    for seed in range(40):
        for made, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            gradients(made, seed)
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    expected = {
        f"{index}.{slot}": tensor
        for index, slots in reference.state_dict()["state"].items()
        for slot, tensor in slots.items()
    }
    assert mine.state().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in mine.state().items())


def test_an_optimizer_with_a_loaded_state_continues_like_the_original(tmp_path):
    first, second = network(True), network(True)
    one = Adam(first.parameters(), 1e-2, 1e-8)
    for seed in range(5):
        one.zero_grad()
        gradients(first, seed)
        one.step()
    second.load_state_dict(first.state_dict())
    other = Adam(second.parameters(), 1e-2, 1e-8)
    # As they come from a file: contiguous, whatever the parameters are.
    other.load({name: tensor.clone().contiguous() for name, tensor in one.state().items()})
    for made, optimizer in ((first, one), (second, other)):
        optimizer.zero_grad()
        gradients(made, 9)
        optimizer.step()
    for here, there in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(here, there)

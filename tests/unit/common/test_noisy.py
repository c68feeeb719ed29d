"""Noisy layers: their definition, their streams of random numbers, and where noise is off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.agent import Agent
from common.config_network import NetworkConfig
from common.networks import make_network, noisy_layers
from common.networks.noisy import NoisyLinear
from support.acting import vector_spec

SPEC = vector_spec(size=3, actions=4)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def rooted(noise):
    return noise.sign() * noise.abs().sqrt()


def test_a_layer_adds_noise_of_the_learnt_size_to_each_weight():
    layer = NoisyLinear(3, 2, sigma=0.6)
    x = torch.tensor([[1.0, -2.0, 0.5]])
    plain = x @ layer.weight.T + layer.bias
    assert torch.allclose(layer(x), plain)
    layer.resample(drawn())
    generator = drawn()
    inputs, outputs = (rooted(torch.randn(n, generator=generator)) for n in (3, 2))
    weight = layer.weight + layer.weight_sigma * outputs[:, None] * inputs
    bias = layer.bias + layer.bias_sigma * outputs
    assert torch.allclose(layer(x), x @ weight.T + bias, atol=1e-6)
    layer.silence()
    assert torch.allclose(layer(x), plain)


def test_the_first_weights_and_noise_have_the_sizes_of_the_paper():
    layer = NoisyLinear(100, 50, sigma=0.5)
    assert layer.weight_sigma.unique().item() == pytest.approx(0.5 / 10)
    assert layer.bias_sigma.unique().item() == pytest.approx(0.5 / 10)
    assert 0.09 < layer.weight.abs().max() <= 0.1
    assert 0.05 < layer.bias.abs().max() <= 0.1


def test_noise_is_neither_published_nor_saved_and_its_size_is_learnt():
    network = make_network(SPEC, NetworkConfig(hidden=(8,), noisy=True))
    names = set(network.state_dict())
    assert {name.rpartition(".")[2] for name in names} == {
        *("weight", "bias", "weight_sigma", "bias_sigma"),
    }
    for layer in noisy_layers(network):
        layer.resample(drawn())
    network(torch.randn(5, 1, 3, generator=drawn())).sum().backward()
    assert all(layer.weight_sigma.grad.abs().sum() > 0 for layer in noisy_layers(network))


@pytest.mark.parametrize("head", ["value", "categorical", "quantile", "implicit-quantile"])
@pytest.mark.parametrize("dueling", [False, True])
def test_all_layers_after_the_torso_are_noisy_but_that_of_fractions(head, dueling):
    config = NetworkConfig(hidden=(8, 8), noisy=True, head=head, dueling=dueling)
    network = make_network(SPEC, config)
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    plain = [m for m in linear if not isinstance(m, NoisyLinear)]
    assert len(plain) == (head == "implicit-quantile")
    # Streams have a hidden and a last layer each.
    assert len(linear) - len(plain) == (5 if dueling else 3)


def test_an_exploring_agent_has_other_noise_for_each_choice_and_an_evaluating_one_has_none():
    stacks = np.random.default_rng(1).normal(size=(50, 1, 3)).astype(np.float32)

    def values(explores, seed=0):
        network = make_network(SPEC, NetworkConfig(hidden=(16,), noisy=True), seed=3)
        agent = Agent(network, torch.device("cpu"), np.random.default_rng(seed), explores)
        return [agent.select_actions(stacks, np.zeros(50)).best[:, 0] for _ in range(2)]

    first, second = values(explores=True)
    assert not np.array_equal(first, second)
    assert np.array_equal([first, second], values(explores=True))
    assert not np.array_equal([first, second], values(explores=True, seed=1))
    first, second = values(explores=False)
    assert np.array_equal(first, second)
    network = make_network(SPEC, NetworkConfig(hidden=(16,), noisy=True), seed=3)
    with torch.no_grad():
        assert np.array_equal(first, network(torch.from_numpy(stacks)).max(dim=1).values.numpy())

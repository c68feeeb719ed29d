"""`learner.precision`: the format in which the learner computes."""

from __future__ import annotations

import pytest
import torch

from common.config_network import NetworkConfig
from common.networks import make_network
from common.types import EnvironmentSpec, FrameSpec
from learner.precision import Forward
from support.learning import Bench

PICTURES = EnvironmentSpec(FrameSpec((1, 42, 42), "uint8", 1 / 255), 2, 3, {})
CPU = torch.device("cpu")


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden", [(64,), (64, 32)])
def test_bf16_gives_float32_values_near_those_of_fp32(dueling, layer_norm, hidden):
    config = NetworkConfig(kind="small-cnn", hidden=hidden, dueling=dueling, layer_norm=layer_norm)
    network = make_network(PICTURES, config)
    batch = torch.randint(0, 256, (16, 2, 1, 42, 42), dtype=torch.uint8)
    exact, rounded = Forward("fp32", CPU)(network, batch), Forward("bf16", CPU)(network, batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.03, rtol=0.03)
    # A number that bfloat16 can hold has no digit beyond its eighth bit.
    assert not torch.equal(rounded, rounded.to(torch.bfloat16).float())


def test_without_hidden_layers_the_values_are_exact_in_bf16():
    spec = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 2, {})
    network = make_network(spec, NetworkConfig(hidden=()))
    batch = torch.randn(5, 1, 4)
    assert torch.equal(Forward("bf16", CPU)(network, batch), network(batch))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_weights_and_moments_stay_float32_and_learn(precision):
    bench = Bench(learner={"precision": precision})
    before = bench.network("policy").state_dict()
    exact = Bench(learner={"precision": "fp32"})
    exact.learner.train(5)
    report = bench.learner.train(5)
    assert report.steps == 5
    after = bench.network("policy").state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert all(not torch.equal(before[name], after[name]) for name in after)
    expected = exact.network("policy").state_dict()
    is_equal = all(torch.equal(expected[name], after[name]) for name in after)
    assert is_equal is (precision != "bf16")  # tf32 is of GPUs

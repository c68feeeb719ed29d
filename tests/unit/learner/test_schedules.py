"""Keys of the learner that change over the steps: target network, learning rate, β, clipping."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from common.schedule import linear_or_constant
from support.learning import Bench, without_versions


def changed_by(before, after):
    """Norm of the change of all weights."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return sum((one - other).square().sum() for one, other in pairs).sqrt().item()


def test_a_target_network_with_a_share_moves_in_each_step():
    bench = Bench(learner={"target_tau": 0.25, "target_sync_steps": 1})
    for _ in range(3):
        before = bench.network("target")
        report = bench.learner.train(1)
        policy, target = bench.network("policy"), bench.network("target")
        for old, new, theirs in zip(
            before.parameters(), target.parameters(), policy.parameters(), strict=True
        ):
            assert torch.allclose(new, old + 0.25 * (theirs - old), atol=1e-7)
        assert changed_by(target, policy) > 0
        assert report.target_syncs == 0


def test_a_learning_rate_falls_to_its_end_and_a_step_of_zero_changes_nothing():
    bench = Bench(learner={"learning_rate": 0.01, "learning_rate_end": 0, "learning_rate_steps": 4})
    sizes = []
    for _ in range(6):
        before = bench.network("policy")
        bench.learner.train(1)
        sizes.append(changed_by(before, bench.network("policy")))
    assert sizes[0] > sizes[3] > 0
    assert sizes[4:] == [0, 0]


def test_beta_moves_to_its_end_and_weighs_the_batch():
    replay = {"alpha": 0.6, "beta": 0.0, "beta_end": 1.0, "beta_steps": 4}
    weights = []
    bench = Bench(replay=replay)
    step = bench.learner._update.step

    def watched(number, batch, weight):
        weights.append(weight.numpy().copy())
        return step(number, batch, weight)

    bench.learner._update.step = watched
    bench.learner.train(6)
    assert (weights[0] == 1).all()
    spread = [w.min() for w in weights]
    assert spread[0] > spread[2] > spread[5]


@pytest.mark.parametrize("network", [{"noisy": True}, {"head": "implicit-quantile"}])
def test_another_seed_and_another_step_draw_other_numbers(network):
    network = {"hidden": (8, 8), **network}

    def losses(seed, first=0):
        bench = Bench(network=network)
        bench.learner._update._seed = seed
        bench.learner._steps = first
        return bench.learner.train(1).loss

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)
    assert losses(1) != losses(1, first=1)


@pytest.mark.parametrize(("step", "value"), [(0, 2.0), (5, 1.5), (10, 1.0), (99, 1.0)])
def test_a_line_ends_and_stays(step, value):
    assert linear_or_constant(step, 2.0, 1.0, 10) == pytest.approx(value)
    assert linear_or_constant(step, 2.0, None, 10) == 2.0


@pytest.mark.parametrize("gradient", [3.0, np.inf])
def test_a_gradient_is_limited_by_value_and_told_as_it_was(gradient):
    update = Bench(learner={"max_grad_value": 0.5, "max_grad_norm": 100.0}).learner._update
    parameters = list(update._policy.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, -gradient)
    norm = update._clip()
    count = sum(p.numel() for p in parameters)
    assert norm.item() == pytest.approx(gradient * count**0.5)
    assert all((p.grad == -0.5).all() for p in parameters)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_another_optimizer_resumes_bit_for_bit_and_learns(optimizer):
    sections = {"learner": {"optimizer": optimizer, "learning_rate_end": 0.0, "target_tau": 0.1}}
    bench = Bench(**sections)
    first = bench.learner.train(5)
    other = Bench(
        **sections, servers=copy.deepcopy(bench.servers), state=bench.learner.state(), seed=9
    )
    for one in (bench, other):
        one.learner.train(5)
    states = [without_versions(one.learner.state()) for one in (bench, other)]
    assert np.array_equal(*states)
    assert bench.learner.train(200).loss < first.loss

"""Targets where some actions are illegal in the state to bootstrap from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common import wire
from learner.targets import bellman_target, unpack_mask
from support.learning import ACTIONS, SPEC, Bench, random_items
from support.masked import unpacked

NAMED = {"reward": torch.tensor([1.0, 1.0]), "discount": torch.tensor([0.5, 0.5])}


def test_the_target_is_the_best_legal_action_of_the_next_state():
    target = bellman_target(
        **NAMED,
        next_q=torch.tensor([[9.0, 4.0, -2.0], [9.0, 4.0, -2.0]]),
        legal=torch.tensor([[False, True, True], [False, False, True]]),
    )
    assert target.tolist() == [3.0, 0.0]


def test_double_q_chooses_among_legal_actions():
    target = bellman_target(
        **NAMED,
        next_q=torch.tensor([[10.0, 1.0, 5.0], [0.0, 7.0, 3.0]]),
        next_q_policy=torch.tensor([[0.0, 2.0, 1.0], [0.3, 0.1, 0.2]]),
        legal=torch.tensor([[True, False, True], [True, True, True]]),
    )
    # Without masks the choice would be 1 and 0; the target net's own best legal one is 0 and 1.
    assert target.tolist() == [3.5, 1.0]


@pytest.mark.parametrize("double", [False, True])
def test_a_legal_action_without_a_finite_value_is_chosen_before_an_illegal_one(double):
    next_q = torch.tensor([[10.0, -torch.inf], [10.0, 3.0]])
    target = bellman_target(
        **NAMED,
        next_q=next_q,
        next_q_policy=torch.tensor([[5.0, -torch.inf]] * 2) if double else None,
        legal=torch.tensor([[False, True]] * 2),
    )
    assert target.tolist() == [-torch.inf, 2.5]


@pytest.mark.parametrize("double", [False, True])
def test_an_empty_mask_of_a_terminal_state_gives_the_reward(double):
    next_q = torch.tensor([[1.0, 2.0]])
    target = bellman_target(
        torch.tensor([3.0]),
        torch.tensor([0.0]),
        next_q,
        next_q if double else None,
        torch.tensor([[False, False]]),
    )
    assert target.tolist() == [3.0]


@pytest.mark.parametrize("actions", [2, 7, 8, 9, 24, 35])
def test_masks_are_unpacked_as_they_were_packed(actions):
    legal = np.random.default_rng(actions).random((50, actions)) < 0.5
    packed = np.packbits(legal, axis=1, bitorder="little")
    assert np.array_equal(unpacked(packed, actions), legal), "the format of a chunk"
    assert np.array_equal(unpack_mask(torch.from_numpy(packed), actions).numpy(), legal)


def bench(double, **learner):
    """A learner of which each item has one legal next action."""
    chunk = random_items()
    chunk["discount"][:] = 0.9
    chunk.columns["next_mask"] = (1 + np.arange(len(chunk)) % ACTIONS)[:, None].astype(np.uint8)
    return Bench(
        chunks=[chunk],
        spec=replace(SPEC, masks_actions=True),
        learner={"double": double, **learner},
    )


@pytest.mark.parametrize("double", [True, False])
def test_a_learner_bootstraps_from_the_legal_action(double):
    one = bench(double, batch_size=64)
    (server,) = one.servers
    chunk = server.chunks[0]
    target = one.network("target")
    policy = one.network("policy")
    one.learner.train(1)
    ((keys, priorities, _),) = server.updates
    frames = torch.from_numpy(chunk.frames)[:, None]
    rows = torch.arange(len(chunk))
    with torch.no_grad():
        only = torch.from_numpy(chunk["next_mask"][:, 0]).long() - 1
        value = target(frames[chunk["next_observation"][:, 0]])[rows, only]
        q = policy(frames[chunk["observation"][:, 0]])[
            rows, torch.from_numpy(chunk["action"]).long()
        ]
    expected = (torch.from_numpy(chunk["reward"]) + 0.9 * value - q).abs().numpy()
    assert priorities == pytest.approx(expected[keys], rel=1e-5, abs=1e-6)


def test_a_batch_of_a_diverged_learner_holds_its_masks():
    one = bench(True, batch_size=8)
    chunk = one.servers[0].chunks[0]
    one.servers[0]._table.items["reward"][:] = np.nan
    report = one.learner.train(1)
    assert report.diverged
    columns, _ = wire.decode(report.batch)
    assert columns["next_mask"].shape == (8, 1)
    assert set(columns["next_mask"][:, 0].tolist()) <= set(chunk["next_mask"][:, 0].tolist())

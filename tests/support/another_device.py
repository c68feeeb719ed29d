"""What test_another_device.py runs in a process of its own: see fake_torch_device.py."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from common import wire
from common.config_toml import merge
from common.item import item_of
from common.types import EnvironmentSpec, FrameSpec
from deploy.launch.presets import make_config
from deploy.launch.resume import resume
from deploy.launch.train import train
from learner.prefetch import Stager
from support import fake_torch_device
from support.batches import PICTURES, VECTORS, next_group
from support.learning import ACTIONS, Bench, items, without_versions
from support.program import TINY, checkpoints_in, contents_of
from support.replay import random_chunk

THERE = torch.device(fake_torch_device.NAME)


@pytest.fixture(autouse=True)
def _used():
    """Each test computes there; that none does by mistake on the CPU is torch's to see."""
    fake_torch_device.calls.clear()
    yield
    assert fake_torch_device.calls.total() > 0


def test_what_is_not_moved_there_or_back_is_an_error():
    there = torch.ones(2, 2).to(THERE)
    for both in (lambda: there + torch.ones(2, 2), lambda: torch.ones(2, 2) @ there):
        with pytest.raises(RuntimeError, match="not elsewhere"):
            both()
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("spec", [PICTURES, VECTORS], ids=["pictures", "vectors"])
def test_batch_groups_arrive_there_bit_for_bit(spec):
    group = next_group(spec, shards=2)
    item = item_of(spec)
    there, here = (Stager(d, item).stage(group) for d in (THERE, torch.device("cpu")))
    for number in range(len(group.rows)):
        (moved, weight), (wanted, wanted_weight) = there.batch(number), here.batch(number)
        assert (moved.next_mask is None) == (not spec.masks_actions)
        for column, wanted_column in zip((*moved, weight), (*wanted, wanted_weight), strict=True):
            if column is wanted_column is None:
                continue
            assert column.device.type == fake_torch_device.NAME
            assert torch.equal(column.cpu(), wanted_column)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("pictures", [False, True])
def test_a_learner_that_goes_there_and_comes_back_learns_what_it_would_have(
    monkeypatch, pictures, dueling, double
):
    learner = {"target_sync_steps": 4, "publish_steps": 3, "double": double}
    sections, chunks = {"network": {"dueling": dueling}}, None
    if pictures:
        frame = FrameSpec((2, 36, 36), "uint8", 1 / 255)
        spec = EnvironmentSpec(frame, 2, ACTIONS, {}, masks_actions=True)
        monkeypatch.setattr("support.learning.SPEC", spec)
        sections["network"]["kind"] = "nature-cnn"
        chunk = random_chunk(np.random.default_rng(1), 60, 30, 2, frame, mask_bytes=1)
        chunk.columns["action"] %= ACTIONS
        chunks = [chunk]
    home = Bench(**sections, learner=learner, chunks=chunks)
    home.learner.train(5)
    away = home
    for device in (fake_torch_device.NAME, "cpu"):
        away = Bench(
            **sections,
            learner=learner | {"device": device},
            servers=copy.deepcopy(away.servers),
            state=away.learner.state(),
        )
        calls = fake_torch_device.calls.total()
        for one in (home, away):
            one.learner.train(6)
        assert (fake_torch_device.calls.total() > calls) == (device == fake_torch_device.NAME)
        assert np.array_equal(
            without_versions(away.learner.state()), without_versions(home.learner.state())
        )


def test_a_loss_that_is_not_finite_is_told_with_its_batch():
    bad = items([0, 1], [0, 1], [float("nan"), 1.0], [0.9, 0.0], [1, 2])
    bench = Bench(chunks=[bad], learner={"device": fake_torch_device.NAME})
    report = bench.learner.train(3)
    assert report.diverged
    assert np.isnan(wire.decode(report.batch)[0]["reward"]).any()


def test_a_run_that_goes_there_and_comes_back_has_all_and_learns_what_it_would_have(tmp_path):
    over = {
        "learner": {"device": "cpu"},
        "replay": {"shards": 2},
        "evaluation": {"every_learner_steps": 50},
        "checkpoint": {"every_learner_steps": 20},
        "stop": {"learner_steps": 60},
    }
    ends = []
    for name, first in (("home", "cpu"), ("away", fake_torch_device.NAME)):
        run = tmp_path / name
        train(make_config("cartpole", overrides=merge(TINY, over)), run)
        for device, steps in ((first, 100), ("cpu", 140)):
            calls = fake_torch_device.calls.total()
            changed = {"learner": {"device": device}, "stop": {"learner_steps": steps}}
            summary = resume(run, changed, inline=True)
            assert (fake_torch_device.calls.total() > calls) == (device == fake_torch_device.NAME)
        newest = checkpoints_in(run).newest()
        ends.append((summary["weights_sha256"], summary["transitions"], contents_of(newest)))
    home, away = ends
    assert away == home  # what the memory holds, too

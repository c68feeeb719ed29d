"""Batches on the learner's device."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from common.handles import InlineHandle
from common.item import item_of
from learner.prefetch import Stager
from replay_server.messages import decode_sample
from replay_server.sampler import BatchGroup, ReplaySampler
from support.acting import make_server
from support.batches import PICTURES, VECTORS, filled_servers, next_group

CPU = torch.device("cpu")
OBSERVATIONS = ("observation", "next_observation")


@pytest.mark.parametrize("spec", [PICTURES, VECTORS], ids=["pictures", "vectors"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_batches_on_the_device_are_bit_for_bit_what_the_samples_say(spec, shards):
    group = next_group(spec, shards)
    device_group = Stager(CPU, item_of(spec)).stage(group)
    # Naively: item after item, all shards end to end.
    items = [(sample, row) for sample in group.samples for row in range(len(sample))]
    assert shards == 1 or min(len(sample) for sample in group.samples) > 0
    for number, rows in enumerate(group.rows):
        transition, weight = device_group.batch(number)
        picked = [items[row] for row in rows]
        for name in OBSERVATIONS:
            expected = np.stack(
                [np.stack([s.frames[i] for i in s.columns[name][row]]) for s, row in picked]
            )
            got = getattr(transition, name).numpy()
            assert got.dtype == expected.dtype
            assert got.shape == (16, spec.stack, *spec.frame.shape)
            assert np.array_equal(got, expected)
        masks = ("next_mask",) if spec.masks_actions else ()
        assert (transition.next_mask is None) == (not masks)
        for name in ("action", "reward", "discount", *masks):
            expected = np.array([s.columns[name][row] for s, row in picked])
            assert np.array_equal(getattr(transition, name).numpy(), expected)
        assert np.array_equal(weight.numpy(), group.weights[number])


def test_what_goes_in_at_one_end_comes_out_at_the_other():
    # All the way: what the shards were given, found again by its reward.
    servers = filled_servers(PICTURES, 2)
    handles = [InlineHandle(server) for server in servers]
    group = ReplaySampler(handles, 32, 2, 1, 0.4, np.random.default_rng(0)).next_group()
    given = {}
    for server in servers:
        stacks = server.observations(), server.observations("next_observation")
        for k, reward in enumerate(server.all_of("reward").tolist()):
            given[reward] = [stack[k] for stack in stacks] + [server.all_of("action")[k]]
    device_group = Stager(CPU, item_of(PICTURES)).stage(group)
    for number in range(2):
        transition, _ = device_group.batch(number)
        for k, reward in enumerate(transition.reward.tolist()):
            observation, next_observation, action = given[reward]
            assert np.array_equal(transition.observation[k].numpy(), observation)
            assert np.array_equal(transition.next_observation[k].numpy(), next_observation)
            assert transition.action[k] == action


def test_a_shard_that_was_not_drawn_from_is_no_trouble():
    full, empty = filled_servers(VECTORS, 1)[0], make_server(VECTORS, 1)
    handles = [InlineHandle(full), InlineHandle(empty)]
    group = ReplaySampler(handles, 8, 1, 1, 0.4, np.random.default_rng(0)).next_group()
    assert [len(sample) for sample in group.samples] == [8, 0]
    transition, _ = Stager(CPU, item_of(VECTORS)).stage(group).batch(0)
    (sample, _) = group.samples
    assert np.array_equal(transition.reward.numpy(), sample["reward"][group.rows[0]])


def test_types_are_those_that_networks_and_losses_want():
    transition, weight = Stager(CPU, item_of(PICTURES)).stage(next_group(PICTURES, 2)).batch(0)
    assert transition.observation.dtype == torch.uint8, "8-bit until the network scales it"
    assert transition.action.dtype == torch.int64
    dtypes = {t.dtype for t in (transition.reward, transition.discount, weight)}
    assert dtypes == {torch.float32}


def read_only_round(server):
    """A round as Ray delivers it, and a weak reference to the memory behind it."""
    shared = server.sample(20)
    shared.flags.writeable = False
    sample = decode_sample(shared)
    assert not sample.frames.flags.writeable
    rows = np.arange(20).reshape(2, 10)
    group = BatchGroup([sample], rows, np.ones((2, 10), np.float32), np.zeros((2, 10), np.int64))
    return group, weakref.ref(shared)


def test_read_only_shared_memory_gives_no_warning_and_is_let_go():
    # Warnings are errors here; torch would warn of a tensor over memory that cannot be written.
    group, memory = read_only_round(filled_servers(PICTURES, 1)[0])
    device_group = Stager(CPU, item_of(PICTURES)).stage(group)
    before = device_group.batch(1)[0].observation.clone()
    assert memory() is not None
    del group
    gc.collect()
    assert memory() is None, "something staged is a view of shared memory"
    assert torch.equal(device_group.batch(1)[0].observation, before)


def test_staging_changes_nothing_in_the_round():
    group = next_group(PICTURES, 2)
    before = [tuple(s.columns[name].copy() for name in OBSERVATIONS) for s in group.samples]
    Stager(CPU, item_of(PICTURES)).stage(group)
    for sample, (observation, next_observation) in zip(group.samples, before, strict=True):
        assert np.array_equal(sample["observation"], observation)
        assert np.array_equal(sample["next_observation"], next_observation)

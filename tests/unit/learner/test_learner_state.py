"""The state of a learner: saved, continued, and parts that die around it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from common import wire
from common.errors import UserError
from common.handles import InlineHandle, Ready
from common.parts import WEIGHT_STORE, shard
from common.types import EnvironmentSpec, FrameSpec
from common.weights import WeightStore, pack_weights, unpack_weights
from replay_server.messages import encode_chunk
from support.acting import make_server
from support.learning import ACTIONS, SPEC, Bench, filled_server, random_items, without_versions
from support.replay import random_chunk

# ── state ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"head": "categorical", "noisy": True},
        {"head": "quantile", "dueling": True},
        {"head": "implicit-quantile", "hidden": (8, 8), "noisy": True},
    ],
    ids=["value", "categorical-noisy", "quantile", "implicit-quantile-noisy"],
)
def test_a_learner_restored_from_a_state_learns_bit_for_bit_like_the_original(network):
    learner = {"target_sync_steps": 4, "publish_steps": 3}
    sections = {"learner": learner, "network": network}
    bench = Bench(**sections)
    bench.learner.train(10)
    state = bench.learner.state()
    # One shard and one round at a time: the memory is all there is to draw from.
    # Noise and fractions belong to the seed and the step; nothing else of a learner does.
    seed = bench.config.seed if network else 99
    other = Bench(**sections, seed=seed, servers=copy.deepcopy(bench.servers), state=state)
    assert np.array_equal(without_versions(other.learner.state()), without_versions(state))
    for bench_ in (bench, other):
        report = bench_.learner.train(9)
        assert report.learner_steps == 19
        assert report.target_syncs == 4
    assert np.array_equal(
        without_versions(bench.learner.state()), without_versions(other.learner.state())
    )


@pytest.mark.parametrize(
    "network", [{"kind": "nature-cnn"}, {"kind": "impala-cnn", "pool": 2, "spectral_norm": True}]
)
def test_moments_of_convolutions_are_restored_bit_for_bit_too(monkeypatch, network):
    # Their weights lie in memory with the channels last, and what is saved does not.
    spec = EnvironmentSpec(FrameSpec((2, 36, 36), "uint8", 1 / 255), 2, ACTIONS, {})
    monkeypatch.setattr("support.learning.SPEC", spec)
    chunk = random_chunk(np.random.default_rng(1), 60, 30, 2, spec.frame)
    chunk.columns["action"] %= ACTIONS
    sections = {"network": network, "learner": {"learning_rate": 0.01, "target_sync_steps": 2}}
    bench = Bench(chunks=[chunk], **sections)
    bench.learner.train(3)
    other = Bench(**sections, servers=copy.deepcopy(bench.servers), state=bench.learner.state())
    states = []
    for bench_ in (bench, other):
        bench_.learner.train(3)
        states.append(without_versions(bench_.learner.state()))
    assert np.array_equal(*states)


@pytest.mark.parametrize("slot", ["step", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda array: None,
        lambda array: np.zeros(1, np.float32),
        lambda array: np.zeros((*array.shape, 1), np.float32),
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.uint8),
    ],
    ids=["missing", "shorter", "deeper", "double", "bytes"],
)
def test_moments_of_another_shape_or_type_are_refused(slot, harm):
    # The fused step would write past their ends.
    bench = Bench()
    bench.learner.train(2)
    arrays, meta = wire.decode(bench.learner.state())
    arrays = dict(arrays)
    changed = harm(arrays.pop(f"optimizer.2.{slot}"))
    if changed is not None:
        arrays[f"optimizer.2.{slot}"] = changed
    with pytest.raises(UserError, match=rf"another network: optimizer\.2\.{slot} is .*must be"):
        Bench(state=wire.encode(arrays, meta))


@pytest.mark.parametrize("extra", ["optimizer.x.step", "optimizer.999.step", "optimizer.0.what"])
def test_moments_of_nothing_are_refused(extra):
    bench = Bench()
    bench.learner.train(2)
    arrays, meta = wire.decode(bench.learner.state())
    arrays = {**arrays, extra: np.zeros((), np.float32)}
    with pytest.raises(UserError, match=f"another network: {extra} is .* there and must be None"):
        Bench(state=wire.encode(arrays, meta))


def test_a_learner_that_has_learnt_has_moments():
    arrays, meta = wire.decode(Bench().learner.state())
    without = {name: array for name, array in arrays.items() if "optimizer" not in name}
    assert len(without) < len(arrays)
    Bench(state=wire.encode(without, meta))  # it has learnt nothing
    with pytest.raises(UserError, match="another network"):
        Bench(state=wire.encode(without, {**meta, "learner_steps": 5}))


def test_a_learner_made_from_a_state_publishes_its_weights_under_a_version_never_used():
    bench = Bench(learner={"publish_steps": 2})
    bench.learner.train(10)
    state = bench.learner.state()
    assert bench.published()[0] == 5
    other = Bench(learner={"publish_steps": 2}, seed=99, state=state)
    version, weights, meta = other.published()
    assert version > 5
    assert meta["learner_steps"] == 10
    policy = bench.network("policy").state_dict()
    assert all(torch.equal(weights[name], policy[name]) for name in policy)


def test_a_state_is_copied_out_of_a_shared_read_only_buffer():
    bench = Bench()
    bench.learner.train(3)
    state = bench.learner.state()
    shared = state.copy()
    shared.flags.writeable = False
    other = Bench(seed=99, state=shared)
    other.learner.train(3)
    assert np.array_equal(shared, state)


@pytest.mark.parametrize(
    "network", [{"hidden": [17]}, {"hidden": [16, 16]}, {"hidden": [16], "dueling": True}], ids=str
)
def test_the_state_of_another_network_is_refused_and_nothing_of_it_is_published(network):
    state, variables = Bench(network=network).learner.state(), WeightStore()
    with pytest.raises(UserError, match="another network") as caught:
        Bench(state=state, variables=variables)
    assert "\n" not in str(caught.value)
    assert variables.newest_version() == -1


@pytest.mark.parametrize(("there", "saved", "first"), [(-1, 5, 6), (3, 5, 6), (40, 5, 41)])
def test_versions_of_a_restored_learner_are_above_those_saved_and_those_published(
    there, saved, first
):
    # Its checkpoint may be older than the newest published weights.
    bench = Bench(learner={"publish_steps": 1})
    assert bench.learner.train(saved).version == saved
    variables = WeightStore()
    if there >= 0:
        variables.publish(there, Ready(pack_weights({}, {})))
    other = Bench(state=bench.learner.state(), variables=variables)
    assert other.published()[0] == first
    assert other.learner.train(1).version == first


def test_a_learner_that_replaces_another_publishes_above_the_floor_of_a_new_weight_store():
    bench = Bench(variables=WeightStore(floor=1_000))
    assert bench.published()[0] == 1_001


# ── another attempt ─────────────────────────────────────────────────────────────────────────────


ROUNDS = {"batches_per_sample": 4, "samples_in_flight": 2}


def test_a_new_attempt_is_bit_for_bit_one_that_was_resumed_from_the_state():
    # With batches of the old attempt still to come, and rounds under way: none of them counts.
    bench = Bench(shards=2, learner=ROUNDS)
    bench.learner.train(6)
    state, servers = bench.learner.state(), copy.deepcopy(bench.servers)
    bench.learner.new_attempt(3)
    resumed = Bench(shards=2, learner=ROUNDS, servers=servers, state=state, learner_incarnation=3)
    assert bench.published()[0] == resumed.published()[0] == 1
    for one in (bench, resumed):
        assert one.learner.train(9).learner_steps == 15
    assert np.array_equal(bench.learner.state(), resumed.learner.state())
    for mine, theirs in zip(bench.servers, resumed.servers, strict=True):
        assert mine.summary() == theirs.summary()


def test_another_attempt_draws_other_samples():
    states = []
    for incarnation in (1, 2):
        bench = Bench(shards=2, learner=ROUNDS)
        bench.learner.train(6)
        bench.learner.new_attempt(incarnation)
        bench.learner.train(9)
        states.append(bench.learner.state())
    assert not np.array_equal(*states)


# ── parts that die ──────────────────────────────────────────────────────────────────────────────


def test_a_dead_shard_is_told_and_what_is_left_is_trained_on_until_another_takes_its_place():
    bench = Bench(shards=2, learner=ROUNDS)
    assert bench.learner.train(2).unreachable == []
    bench.handles[1].end()
    report = bench.learner.train(8)
    assert report.steps == 8
    assert report.unreachable == [shard(1)]
    assert [summary.shard for summary in report.replay] == [0]
    assert bench.learner.train(1).unreachable == [shard(1)], "as long as nothing took its place"
    server = filled_server(1, 7, random_items(seed=8))
    bench.learner.reconnect(shard(1), InlineHandle(server))
    report = bench.learner.train(8)
    assert (report.unreachable, report.steps) == ([], 8)
    assert [summary.incarnation for summary in report.replay] == [0, 7]
    assert {incarnation for *_, incarnation in server.updates} == {7}


def test_without_anything_to_sample_training_ends_early_and_says_so():
    bench = Bench(shards=2)
    bench.learner.train(1)
    for handle in bench.handles:
        handle.end()
    report = bench.learner.train(5)
    assert (report.steps, report.samples, report.unreachable) == (0, 0, [shard(0), shard(1)])
    assert not report.diverged
    for index in range(2):
        empty = make_server(SPEC, index, incarnation=1)
        bench.learner.reconnect(shard(index), InlineHandle(empty))
    report = bench.learner.train(5)
    assert (report.steps, report.unreachable) == (0, []), "they came back empty"
    empty.insert(encode_chunk(random_items()))
    assert bench.learner.train(5).steps == 5


def test_a_dead_weight_store_is_reported_and_the_next_gets_the_newest_weights():
    bench = Bench(learner={"publish_steps": 1})
    bench.learner._weight_store.end()
    report = bench.learner.train(4)
    assert (report.steps, report.version, report.unreachable) == (4, 4, [WEIGHT_STORE])
    variables = WeightStore(floor=100)
    bench.learner.reconnect(WEIGHT_STORE, InlineHandle(variables))
    version, reference = variables.fetch(-1)
    weights, meta = unpack_weights(reference.result())
    assert version == 101
    assert meta["learner_steps"] == 4
    policy = bench.network("policy").state_dict()
    assert all(torch.equal(weights[name], policy[name]) for name in policy)
    report = bench.learner.train(1)
    assert (report.version, report.unreachable) == (102, [])

"""The learner, with real replay shards and a real weight store in the same process."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from common import wire
from common.handles import InlineHandle, Ready
from learner.targets import bellman_target
from replay_server.messages import encode_chunk
from support.acting import make_server
from support.learning import ACTIONS, SPEC, STATES, Bench, items, random_items


def equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


# ── target network and publishing ───────────────────────────────────────────────────────────────


def test_the_target_net_equals_the_policy_net_at_first_and_then_only_at_multiples():
    bench = Bench(learner={"target_sync_steps": 4})
    assert equal(bench.network("policy"), bench.network("target"))
    held = bench.network("target")
    for step in range(1, 13):
        report = bench.learner.train(1)
        assert report.target_syncs == step // 4
        target, policy = bench.network("target"), bench.network("policy")
        if step % 4 == 0:
            assert equal(target, policy)
            held = target
        else:
            assert equal(target, held), f"the target net moved at step {step}"
            assert not equal(target, policy)


def test_the_counter_of_syncs_continues_over_calls_of_any_length():
    bench = Bench(learner={"target_sync_steps": 4})
    reports = [bench.learner.train(steps) for steps in (3, 3, 7)]
    assert [report.target_syncs for report in reports] == [0, 1, 3]
    assert [report.learner_steps for report in reports] == [3, 6, 13]


def test_random_weights_are_published_as_version_0_before_any_step():
    bench = Bench()
    version, weights, meta = bench.published()
    assert version == 0
    assert meta["learner_steps"] == 0
    policy = bench.network("policy").state_dict()
    assert all(torch.equal(weights[name], policy[name]) for name in policy)


def test_every_publish_steps_a_new_version_holds_the_weights_of_that_moment():
    bench = Bench(learner={"publish_steps": 3})
    versions, steps = [], []
    for _ in range(9):
        report = bench.learner.train(1)
        version, weights, meta = bench.published()
        assert version == report.version
        versions.append(version)
        steps.append(meta["learner_steps"])
        if report.learner_steps % 3 == 0:
            policy = bench.network("policy").state_dict()
            assert all(torch.equal(weights[name], policy[name]) for name in policy)
    assert versions == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert steps == [0, 0, 3, 3, 3, 6, 6, 6, 9]


def test_published_weights_do_not_change_while_training_continues():
    bench = Bench()
    _, reference = bench.weight_store.fetch(-1)
    before = reference.result().copy()
    bench.learner.train(5)
    assert np.array_equal(reference.result(), before)
    assert not equal(bench.network("policy"), bench.network("target")), "something was learnt"


def test_weights_depend_on_the_seed_alone():
    one, again, other = Bench(), Bench(), Bench(seed=6)
    assert equal(one.network("policy"), again.network("policy"))
    assert not equal(one.network("policy"), other.network("policy"))
    for bench in (one, again):
        bench.learner.train(10)
    assert np.array_equal(one.learner.state(), again.learner.state())


# ── priorities ──────────────────────────────────────────────────────────────────────────────────


def td_errors(chunk, policy, target, double):
    """|TD error| of every item of a chunk, by hand."""
    frames = torch.from_numpy(chunk.frames)
    with torch.no_grad():
        q = policy(frames[chunk["observation"]])
        next_q = target(frames[chunk["next_observation"]])
        chooser = policy(frames[chunk["next_observation"]]) if double else next_q
        wanted = bellman_target(
            torch.from_numpy(chunk["reward"]),
            torch.from_numpy(chunk["discount"]),
            next_q,
            chooser,
        )
    return (wanted - q[torch.arange(len(chunk)), torch.from_numpy(chunk["action"]).long()]).abs()


@pytest.mark.parametrize("double", [True, False])
def test_priorities_sent_back_are_the_td_errors_by_key_at_the_right_shard(double):
    # The same keys in both shards, with other contents: a mix-up would show.
    bench = Bench(
        shards=2, incarnation=4, learner={"double": double, "batch_size": 24, "learning_rate": 0.01}
    )
    chunks = [server.chunks[0] for server in bench.servers]
    bench.learner.train(7)  # so that policy and target differ
    for server in bench.servers:
        server.updates.clear()
    policy, target = bench.network("policy"), bench.network("target")
    assert not equal(policy, target)
    bench.learner.train(1)
    sent = 0
    for server, chunk in zip(bench.servers, chunks, strict=True):
        expected = td_errors(chunk, policy, target, double).numpy()
        ((keys, priorities, incarnation),) = server.updates
        assert incarnation == 4
        assert priorities == pytest.approx(expected[keys], rel=1e-5, abs=1e-6)
        sent += len(keys)
    assert sent == 24


def test_priorities_of_several_batches_go_back_together_each_with_the_nets_of_its_own_step():
    bench = Bench(learner={"batches_per_sample": 3, "batch_size": 16, "learning_rate": 0.05})
    (server,) = bench.servers
    errors = []
    for step in range(3):
        assert not server.updates, f"sent back before step {step}"
        nets = bench.network("policy"), bench.network("target")
        errors.append(td_errors(server.chunks[0], *nets, double=True).numpy())
        bench.learner.train(1)
    ((keys, priorities, _),) = server.updates
    # One shard: items lie in the order drawn, batch after batch.
    for step in range(3):
        part = slice(16 * step, 16 * (step + 1))
        assert priorities[part] == pytest.approx(errors[step][keys[part]], rel=1e-5, abs=1e-6)


def test_new_priorities_change_what_is_drawn():
    # One item of 60 has a great error and learning is slow: soon it is drawn most of the time.
    chunk = random_items()
    chunk["reward"][:] = 0
    chunk["discount"][:] = 0
    chunk["reward"][17] = 100
    bench = Bench(chunks=[chunk], learner={"learning_rate": 1e-7, "batch_size": 64})
    bench.learner.train(20)
    (server,) = bench.servers
    keys = np.concatenate([keys for keys, _, _ in server.updates[-5:]])
    assert np.bincount(keys).argmax() == 17


# ── divergence ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_no_number_stops_training_before_the_step_and_hands_over_the_batch(value):
    bench = Bench(learner={"batch_size": 8})
    bench.learner.train(2)
    before = bench.learner.state()
    chunk = random_items(count=8)
    chunk["reward"][:] = value
    server = make_server(SPEC)
    server.insert(encode_chunk(chunk))
    bench.handles[0]._target = server
    report = bench.learner.train(5)
    assert report.diverged
    assert report.steps == 0
    assert report.learner_steps == 2
    assert np.array_equal(bench.learner.state(), before), "it was trained on"
    batch, _ = wire.decode(report.batch)
    assert batch.keys() >= {
        "observation", "action", "reward", "discount", "next_observation", "weight",
    }  # fmt: skip
    assert batch["observation"].shape == (8, 1, STATES)
    assert np.array_equal(batch["reward"], np.full(8, value, np.float32), equal_nan=True)
    assert server.updates == []


def test_steps_before_the_bad_batch_count():
    chunk = random_items(count=2000)
    chunk["reward"][:4] = np.nan  # rare: the first batches are sound
    bench = Bench(chunks=[chunk], learner={"batch_size": 8})
    report = bench.learner.train(2000)
    assert report.diverged
    assert 0 < report.steps < 2000
    assert report.learner_steps == report.steps
    assert np.isfinite([report.loss, report.mean_q, report.grad_norm, report.td_error]).all()
    batch, _ = wire.decode(report.batch)
    assert np.isnan(batch["reward"]).any()


def test_a_sound_run_reports_no_divergence():
    report = Bench().learner.train(3)
    assert not report.diverged
    assert report.batch is None


def test_training_can_be_asked_for_again_after_a_bad_batch():
    # The caller decides what to do; asking again must not fail on a half-used round.
    chunk = random_items(count=8)
    chunk["reward"][:] = np.nan
    bench = Bench(chunks=[chunk])
    assert bench.learner.train(1).diverged
    assert bench.learner.train(1).diverged


# ── reports ─────────────────────────────────────────────────────────────────────────────────────


def test_counters_and_means_of_a_report_have_one_unit_each():
    bench = Bench(learner={"batch_size": 12})
    assert bench.learner.train(3).samples == 36
    nets = bench.network("policy"), bench.network("target")
    report = bench.learner.train(1)
    assert (report.learner_steps, report.steps, report.samples) == (4, 1, 12)
    (server,) = bench.servers
    keys, priorities, _ = server.updates[-1]
    assert report.td_error == pytest.approx(priorities.mean(), rel=1e-5)
    chunk = server.chunks[0]
    with torch.no_grad():
        q = nets[0](torch.from_numpy(chunk.frames[chunk["observation"][keys]])).numpy()
    assert report.mean_q == pytest.approx(q[np.arange(12), chunk["action"][keys]].mean(), rel=1e-4)
    assert report.grad_norm > 0
    assert report.replay[0].inserted == 60


def test_the_age_of_weights_is_counted_in_versions_since_the_action():
    bench = Bench(learner={"publish_steps": 1})  # all items were acted on by version 0
    # Version 0 is out at the first step, then 1, 2, 3.
    assert bench.learner.train(4).weight_lag == pytest.approx(1.5)


def test_the_age_of_data_is_counted_in_inserts():
    chunk = random_items(count=1)
    bench = Bench(chunks=[chunk])
    bench.servers[0].insert(encode_chunk(random_items(count=1)))
    # Two items, the older with an age of 2 and the newer with 1.
    assert 1 <= bench.learner.train(1).data_age <= 2


def test_no_steps_are_a_report_too():
    report = Bench().learner.train(0)
    assert (report.steps, report.learner_steps, report.diverged) == (0, 0, False)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_has_as_many_threads_as_the_configuration_says(threads):
    torch.set_num_threads(3 - threads)
    Bench(learner={"threads": threads})
    assert torch.get_num_threads() == threads


# ── shared memory ───────────────────────────────────────────────────────────────────────────────


class WatchedHandle(InlineHandle):
    """Hands samples out read-only, as Ray does, and knows which are still alive."""

    def __init__(self, target):
        super().__init__(target)
        self._answers = []

    def call(self, method, *args):
        answer = super().call(method, *args).result()
        if method == "sample":
            answer.flags.writeable = False
            self._answers.append(weakref.ref(answer))
        return Ready(answer)

    @property
    def alive(self):
        gc.collect()
        return sum(answer() is not None for answer in self._answers)


def test_no_shared_memory_is_held_while_a_round_is_trained_on():
    # A view of any column pins the whole message, frames and all.
    bench = Bench(shards=2, handle=WatchedHandle, learner={"batches_per_sample": 4})
    bench.learner.train(1)  # one batch of four: the group is not complete
    assert [handle.alive for handle in bench.handles] == [0, 0]


def test_no_shared_memory_is_held_after_a_round():
    bench = Bench(shards=2, handle=WatchedHandle, learner={"batches_per_sample": 4})
    bench.learner.train(8)
    assert [handle.alive for handle in bench.handles] == [0, 0]


# ── it learns ───────────────────────────────────────────────────────────────────────────────────


GAMMA = 0.8


def chain():
    """Five states in a row: 0 goes left, 1 right; past the right end there is 1 and the end.

    Left of the left end one stays. True values are worked out by value iteration.
    """
    states, actions, rewards, discounts, next_states = [], [], [], [], []
    for state in range(STATES):
        for action in range(ACTIONS):
            after = max(0, state - 1) if action == 0 else state + 1
            ends = after == STATES
            states.append(state)
            actions.append(action)
            rewards.append(1.0 if ends else 0.1 if action == 0 and state == 0 else 0.0)
            discounts.append(0.0 if ends else GAMMA)
            next_states.append(state if ends else after)
    chunk = items(states, actions, rewards, discounts, next_states)
    q = np.zeros((STATES, ACTIONS))
    for _ in range(200):
        q[states, actions] = chunk["reward"] + chunk["discount"] * q[next_states].max(axis=1)
    return chunk, q


@pytest.mark.parametrize("double", [True, False])
def test_q_values_of_a_small_world_become_the_true_ones(double):
    chunk, truth = chain()
    assert truth[:, 1] == pytest.approx([0.8**4, 0.8**3, 0.8**2, 0.8, 1.0], abs=0.1)
    # Without hidden layers one-hot states make a table: nothing stands between loss and truth.
    bench = Bench(
        chunks=[chunk],
        network={"hidden": []},
        learner={
            "double": double,
            "batch_size": 32,
            "learning_rate": 0.05,
            "target_sync_steps": 20,
            "gamma": GAMMA,
        },
    )
    report = bench.learner.train(500)
    with torch.no_grad():
        learnt = bench.network("policy")(torch.eye(STATES)[:, None]).numpy()
    assert learnt == pytest.approx(truth, abs=0.03)
    assert np.array_equal(learnt.argmax(axis=1), truth.argmax(axis=1))
    assert report.loss < 0.1


def test_the_clock_may_hold_back_weights_and_their_cost_is_reported(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("learner.learner.monotonic", lambda: now[0])
    share = InlineHandle.share

    def slow_share(handle, value):
        now[0] += 0.25
        return share(handle, value)

    monkeypatch.setattr(InlineHandle, "share", slow_share)
    bench = Bench(learner={"publish_steps": 2, "publish_s": 5.0})
    begun = bench.learner.train(1)
    assert (begun.publications, begun.version) == (1, 0), "the first weights"
    assert bench.learner.train(7).publications == 0, "not five seconds later yet"
    now[0] += 5.0
    report = bench.learner.train(4)
    assert (report.publications, report.version) == (1, 1)
    version, weights, _ = bench.published()
    assert version == 1
    size = sum(tensor.numel() * 4 for tensor in weights.values())
    assert size <= report.weights_bytes < size + 2_000
    unlimited = Bench(learner={"publish_steps": 2}).learner.train(8)
    assert unlimited.publications == 1 + 4
    assert unlimited.publishing_s == pytest.approx(5 * 0.25)

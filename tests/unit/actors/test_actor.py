"""The actor, with a real replay shard and real variables in the same process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.actor import Actor
from actors.environments import environment_spec
from common.handles import InlineHandle
from common.networks import make_network
from common.weights import WeightStore
from replay_server.writer import CHUNKS_PER_TURN
from support.acting import (
    ACTION_PAYS,
    COUNTING,
    COUNTING_LIMITED,
    GREEDY,
    NOISY,
    RANDOM,
    SlowHandle,
    make_config,
    make_server,
    needs_atari,
    network_that_prefers,
    publish,
)


class Scene:
    """An actor between its shards and its variables."""

    def __init__(self, index=0, incarnation=0, shards=1, handle=InlineHandle, **sections):
        self.config = make_config(**sections)
        self.spec = environment_spec(self.config.env)
        self.servers = [make_server(self.spec, shard) for shard in range(shards)]
        self.handles = [handle(server) for server in self.servers]
        self.weight_store = WeightStore()
        self.actor = Actor(
            self.config, index, incarnation, self.handles, InlineHandle(self.weight_store)
        )

    @property
    def server(self):
        return self.servers[0]

    def prefer(self, action, version):
        network = network_that_prefers(self.spec, self.config, action)
        publish(self.weight_store, version, network)


def env(**kwargs):
    return {"id": COUNTING, "kwargs": kwargs}


# ── counters ────────────────────────────────────────────────────────────────────────────────────


def test_env_steps_are_decisions_and_the_step_that_only_resets_is_none():
    # Episodes of 4: each fifth vector step does nothing but open the next episode.
    scene = Scene(env=env(length=4))
    assert scene.actor.collect(4, 0).env_steps == 8
    assert scene.actor.collect(1, 0).env_steps == 0
    report = scene.actor.collect(5, 0)
    assert report.env_steps == 8
    assert report.frames == 8, "one frame per step: there is no emulator"


@needs_atari
def test_frames_are_those_of_the_emulator():
    scene = Scene(
        env={"id": "ALE/Pong-v5", "width": 10, "height": 10},
        actors={"envs": 1},
        network={"kind": "mlp", "hidden": [4]},
    )
    report = scene.actor.collect(3, 0)
    assert report.env_steps == 3
    assert report.frames == 12
    scene.actor.close()


def test_every_real_step_arrives_in_the_memory_as_one_transition():
    scene = Scene(env=env(length=4), learner={"n_step": 3}, exploration=RANDOM)
    reports = [scene.actor.collect(7, 0) for _ in range(8)]  # 56 vector steps, 14 chunks
    server = scene.server
    assert sum(report.transitions for report in reports) == len(server.all_of("action"))
    # An observation names episode and step; both copies count alike, so each comes twice.
    seen = [tuple(row) for row in server.observations()[:, 0, :2].astype(int).tolist()]
    # 56 slots are 11 episodes (5 slots each) and one step; that step still waits for its window.
    assert sorted(seen) == sorted(2 * [(e, t) for e in range(1, 12) for t in range(4)])
    server.check()


def test_transitions_hold_what_the_environment_did():
    scene = Scene(env=env(length=3, reward=2.0), exploration=RANDOM, learner={"gamma": 0.5})
    scene.actor.collect(40, 0)
    server = scene.server
    before = server.observations()[:, 0]
    after = server.observations("next_observation")[:, 0]
    # The action told by the next observation is the one recorded, the step one later.
    assert np.array_equal(after[:, 2], server.all_of("action"))
    assert np.array_equal(after[:, 1], before[:, 1] + 1)
    assert np.array_equal(after[:, 0], before[:, 0])
    assert set(server.all_of("reward").tolist()) == {2.0}
    assert np.array_equal(server.all_of("discount"), np.where(after[:, 1] == 3, 0.0, 0.5))


def test_a_truncated_episode_is_bootstrapped_from_its_last_observation():
    scene = Scene(env={"id": COUNTING_LIMITED, "kwargs": {"length": 5}}, learner={"gamma": 0.5})
    scene.actor.collect(40, 0)
    after = scene.server.observations("next_observation")[:, 0]
    assert (after[:, 1] == 3).any()
    assert set(scene.server.all_of("discount").tolist()) == {0.5}


def test_stacks_are_padded_at_the_start_and_never_reach_into_another_episode():
    scene = Scene(env=env(length=3) | {"stack": 3})
    scene.actor.collect(40, 0)
    for column in ("observation", "next_observation"):
        for stack in scene.server.observations(column):
            episode, newest = stack[-1, 0], int(stack[-1, 1])
            expected = [[episode, t] if t >= 0 else [0, 0] for t in range(newest - 2, newest + 1)]
            assert stack[:, :2].tolist() == expected


def test_the_agent_sees_the_stack_that_is_stored():
    # Priorities of greedy actions are computed from what the network saw: recompute them from
    # what was stored.
    scene = Scene(
        env=env(length=5) | {"stack": 3},
        exploration=GREEDY,
        learner={"gamma": 0.5, "double": False},
    )
    network = make_network(scene.spec, scene.config.network, seed=9)
    publish(scene.weight_store, 0, network)
    scene.actor.collect(24, 0)
    server = scene.server

    with torch.no_grad():
        q = network(torch.from_numpy(server.observations())).numpy()
        after = network(torch.from_numpy(server.observations("next_observation"))).numpy()
    assert np.array_equal(server.all_of("action"), q.argmax(axis=1))
    target = server.all_of("reward") + server.all_of("discount") * after.max(axis=1)
    expected = np.abs(target - q.max(axis=1))
    assert server.all_of("priority") == pytest.approx(expected, rel=1e-4, abs=1e-5)


# ── weights ─────────────────────────────────────────────────────────────────────────────────────


def test_weights_are_fetched_only_when_newer():
    scene = Scene()
    assert scene.actor.collect(1, 0).version == -1
    scene.prefer(action=1, version=0)
    fetched = [scene.actor.collect(1, 0).fetches for _ in range(3)]
    assert fetched == [1, 0, 0]
    scene.prefer(action=2, version=4)
    report = scene.actor.collect(1, 0)
    assert (report.fetches, report.version) == (1, 4)
    assert scene.weight_store.fetches == 2


def test_each_transition_carries_the_version_of_the_weights_that_chose_its_action():
    # Chunks of 3 steps, weights of each version prefer an action of their own: 5 steps each.
    scene = Scene(
        env=env(length=100), exploration=GREEDY, actors={"chunk_steps": 3}, learner={"n_step": 2}
    )
    for version, action in enumerate((1, 2, 0)):
        scene.prefer(action, version)
        scene.actor.collect(5, 0)
    actions, versions = scene.server.all_of("action"), scene.server.all_of("version")
    assert set(versions.tolist()) == {0, 1, 2}
    assert np.array_equal(actions, np.array([1, 2, 0])[versions])
    step = scene.server.observations()[:, 0, 1]
    assert np.array_equal(versions, step // 5)


# ── returns and ε ───────────────────────────────────────────────────────────────────────────────


def test_returns_are_of_the_environments_own_rewards_however_they_are_clipped_for_learning():
    scene = Scene(env=env(length=4, reward=-7.0) | {"reward_clip": 1.0})
    report = scene.actor.collect(10, 0)
    assert [episode.ret for episode in report.episodes] == [-28.0] * 4
    assert [episode.length for episode in report.episodes] == [4] * 4
    assert set(scene.server.all_of("reward").tolist()) == {-1.0}


def test_without_clipping_the_rewards_are_stored_as_they_are():
    scene = Scene(env=env(length=4, reward=-7.0))
    scene.actor.collect(10, 0)
    assert set(scene.server.all_of("reward").tolist()) == {-7.0}


def test_an_episode_continues_over_several_calls():
    scene = Scene(env=env(length=4), actors={"envs": 1})
    reports = [scene.actor.collect(1, 0) for _ in range(6)]
    assert [len(report.episodes) for report in reports] == [0, 0, 0, 1, 0, 0]
    assert reports[3].episodes[0].ret == 4.0


def test_each_episode_is_reported_with_the_epsilon_of_its_copy():
    scene = Scene(
        index=1,
        env=env(length=2),
        actors={"count": 2, "envs": 3},
        exploration={"kind": "ladder", "base": 0.4, "alpha": 7.0},
    )
    report = scene.actor.collect(2, 0)
    rungs = [0.4 ** (1 + 7 * i / 5) for i in (3, 4, 5)]
    assert [episode.epsilon for episode in report.episodes] == pytest.approx(rungs)
    assert report.epsilon == pytest.approx(np.mean(rungs))
    assert (report.index, report.incarnation) == (1, 0)


def test_a_falling_epsilon_follows_the_env_steps_of_the_whole_run():
    scene = Scene(
        exploration={"kind": "linear", "start": 1.0, "end": 0.0, "decay_steps": 100},
        env=env(length=100),
        actors={"envs": 2, "count": 3},
    )
    assert scene.actor.collect(1, 0).epsilon == pytest.approx(1.0)
    assert scene.actor.collect(1, 50).epsilon == pytest.approx(0.5)
    # Within a call: 2 copies × 3 actors take 6 steps per vector step; the fifth is at 24.
    assert scene.actor.collect(5, 0).epsilon == pytest.approx(1 - 24 / 100)


def test_epsilon_decides_between_exploring_and_the_published_policy():
    for exploration, expected in ((GREEDY, {2.0}), (RANDOM, {0.0, 1.0, 2.0})):
        scene = Scene(env={"id": ACTION_PAYS}, exploration=exploration)
        scene.prefer(action=2, version=0)
        scene.actor.collect(40, 0)
        assert set(scene.server.all_of("reward").tolist()) == expected


# ── lives ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ends", [True, False])
def test_a_lost_life_ends_learning_if_it_should_and_the_episode_never(ends):
    scene = Scene(
        env=env(length=4, life_at=2) | {"life_loss_ends": ends},
        learner={"gamma": 0.5, "n_step": 1},
    )
    report = scene.actor.collect(20, 0)
    assert [episode.length for episode in report.episodes] == [4] * 8
    step = scene.server.observations()[:, 0, 1]
    discount = scene.server.all_of("discount")
    assert set(discount[step == 1].tolist()) == ({0.0} if ends else {0.5})
    assert set(discount[step == 3].tolist()) == {0.0}
    assert set(discount[(step == 0) | (step == 2)].tolist()) == {0.5}


# ── random streams ──────────────────────────────────────────────────────────────────────────────


def stream(env_id, seed=5, index=0, incarnation=0):
    """What an actor experiences: (observations, actions)."""
    scene = Scene(
        index=index,
        incarnation=incarnation,
        seed=seed,
        env={"id": env_id},
        exploration=RANDOM,
        actors={"count": 2},
    )
    scene.actor.collect(24, 0)
    return scene.server.observations(), scene.server.all_of("action")


OTHERS = [{"seed": 6}, {"index": 1}, {"incarnation": 1}, {"index": 1, "incarnation": 1}]


def test_the_same_seed_index_and_incarnation_experience_the_same():
    for one, other in zip(stream(NOISY), stream(NOISY), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_seed_index_or_incarnation_has_other_environments(other):
    # This environment draws all that it shows; whatever is drawn twice was repeated.
    mine, theirs = stream(NOISY)[0], stream(NOISY, **other)[0]
    assert not set(mine.ravel().tolist()) & set(theirs.ravel().tolist())


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_seed_index_or_incarnation_explores_otherwise(other):
    # This environment draws nothing: any difference comes from exploration.
    assert not np.array_equal(stream(COUNTING)[1], stream(COUNTING, **other)[1])


def test_all_streams_of_a_run_are_different_from_each_other():
    openings = [
        stream(NOISY, index=index, incarnation=incarnation)[0].tobytes()
        for index in (0, 1)
        for incarnation in (0, 1, 2)
    ]
    assert len(set(openings)) == 6


# ── the way to the memory ───────────────────────────────────────────────────────────────────────


def test_no_more_inserts_are_under_way_than_allowed_and_all_arrive_in_the_end():
    scene = Scene(
        handle=SlowHandle, env=env(length=100), actors={"chunk_steps": 1, "inserts_in_flight": 3}
    )
    report = scene.actor.collect(20, 0)
    (handle,) = scene.handles
    assert handle.most_under_way == 3
    # The report counts what is known to be stored; 19 chunks of 2 were sent.
    assert report.transitions == 2 * (19 - 3)
    scene.actor.close()
    assert not handle.under_way


def test_chunks_go_to_the_shards_in_turn_beginning_with_the_actors_own():
    scene = Scene(index=1, shards=3, env=env(length=100), actors={"count": 2, "chunk_steps": 2})
    scene.actor.collect(2, 0)
    assert [len(server.chunks) for server in scene.servers] == [0, 1, 0]
    scene.actor.collect(2 * (3 * CHUNKS_PER_TURN), 0)
    turn = CHUNKS_PER_TURN
    assert [len(server.chunks) for server in scene.servers] == [turn, turn + 1, turn]
    # Within a turn every frame travels once; a new turn begins with those it reaches back to.
    steps = 2 * (3 * CHUNKS_PER_TURN + 1) * scene.config.actors.envs
    assert steps <= sum(server.sent_frames for server in scene.servers) < 1.2 * steps
    assert not any(server.summary().orphaned for server in scene.servers)


def test_a_refused_insert_is_not_swallowed():
    scene = Scene(env=env(length=100))

    def fail(buffer):
        raise ValueError("the shard is full")

    scene.server.insert = fail
    with pytest.raises(ValueError, match="the shard is full"):
        scene.actor.collect(10, 0)


def test_seconds_add_up():
    report = Scene().actor.collect(10, 0)
    assert report.wall_s > 0
    assert report.env_s > 0
    assert report.policy_s > 0
    assert report.env_s + report.policy_s + report.insert_wait_s <= report.wall_s

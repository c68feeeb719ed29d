"""Requests of a run and the room for them on a cluster: arithmetic, without Ray."""

from __future__ import annotations

import pytest

from common.config import Config
from common.errors import UserError
from common.parts import EVALUATOR, LEARNER, actor, shard
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES, resource_requests
from deploy.runtime.head import ClusterCapacity, NodeType
from deploy.runtime.plan import ClusterPlan, ClusterSnapshot

HEAD = NodeType({"CPU": 0.0}, 1)
GPU = NodeType({"CPU": 4.0, "GPU": 1.0, LEARNER_NODES: 1000}, 1)
SPOT = NodeType({"CPU": 8.0, ACTOR_NODES: 1000}, 10)


def cluster(kinds, nodes=None, offers=frozenset(), live=(), **values):
    """The plan of a run on a cluster of these node types; None: `live` ones for now."""
    known = ClusterCapacity(None if kinds is None else tuple(kinds), nodes, offers)
    return ClusterPlan(Config.model_validate(values), known, lambda: live)


def test_actors_fill_the_nodes_that_are_for_them_beside_the_evaluator():
    assert cluster([HEAD, GPU, SPOT]).max_actors() == 10 * 8 - 1
    assert cluster([HEAD, GPU, SPOT], placement={"actor_cpus": 0.5}).max_actors() == 10 * 16 - 2
    assert cluster([HEAD, GPU, SPOT], placement={"actor_cpus": 16.0}).max_actors() == 0


def test_nodes_of_all_kinds_together_have_a_limit_too():
    # Head, learner's, and two for actors.
    assert cluster([HEAD, GPU, SPOT], nodes=4).max_actors() == 2 * 8 - 1
    assert cluster([HEAD, GPU, SPOT], nodes=100).max_actors() == 10 * 8 - 1
    # The better kind is taken as long as there is any.
    small = NodeType({"CPU": 2.0, ACTOR_NODES: 1000}, 10)
    assert cluster([HEAD, GPU, small, NodeType(SPOT.resources, 1)], nodes=4).max_actors() == 8 + 1
    with pytest.raises(
        UserError, match=r"actors\.count=16: the cluster can never hold more than 15"
    ):
        cluster([HEAD, GPU, SPOT], nodes=4, actors={"count": 16}).check()


def test_without_roles_all_parts_share():
    # learner 1, shard 1, evaluator 1: five are left.
    assert cluster([NodeType({"CPU": 8.0}, 1)]).max_actors() == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learner": {"device": "cuda"}}, r"learner wants 1 CPU, 1 GPU.*no node has enough GPU"),
        ({"learner": {"threads": 64}}, r"learner wants 64 CPU"),
        ({"placement": {"actor_cpus": 64}}, r"actor wants 64 CPU.*no node has enough CPU"),
        ({"actors": {"count": 6}}, r"actors\.count=6: the cluster can never hold more than 5"),
    ],
)
def test_what_no_node_can_hold_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        cluster([NodeType({"CPU": 8.0}, 1)], **values).check()


def test_a_learner_that_may_choose_takes_a_gpu_where_there_is_one():
    with_gpu = resource_requests(Config(), {"CPU", "GPU"}, True)[0]
    assert with_gpu.gpus == 1
    cluster([HEAD, GPU, SPOT]).check()


FIXED_NODES = {LEARNER: "gpu", shard(0): "gpu"}


def test_where_nodes_can_be_started_there_is_room_on_them_less_what_others_hold():
    made = cluster([HEAD, GPU, SPOT], nodes=100)
    spot = dict(SPOT.resources)
    total = {"head": dict(HEAD.resources), "gpu": dict(GPU.resources), "spot": spot}
    used = {**spot, "CPU": 8.0 - 1 - 2 - 4}  # our evaluator and two actors; four of others
    places = {"a": "spot", "b": "spot", "e": "spot"}
    seen = ClusterSnapshot(total, {"head": {}, "gpu": {"CPU": 2.0}, "spot": used}, places)
    env_workers = {"a": actor(0), "b": actor(1), "e": EVALUATOR, "c": actor(2)}
    assert made.capacity(seen, env_workers, FIXED_NODES, 0) == made.max_actors() - 4
    assert made.capacity(seen, env_workers, FIXED_NODES, 1) == made.max_actors() - 3, (
        "that may be the one that starts"
    )
    made = cluster(None, live=[HEAD, GPU, SPOT])
    assert made.capacity(seen, env_workers, FIXED_NODES, 0) == 8 - 1 - 4


NODES = {"head": {"CPU": 0.0, "node:__internal_head__": 1.0}, "gpu": dict(GPU.resources)}


@pytest.mark.parametrize(
    ("taken", "moves"),
    [
        ({"x": "a", "y": "b-b", "z": "b-b"}, "x"),
        ({"x": "a", "y": "b-b", "z": "a"}, "y"),
        ({"x": "a", "y": "a", "z": "a"}, None),  # no_process else is anywhere
    ],
    ids=["the-one-alone", "the-other-one", "all-together"],
)
def test_the_actor_that_moves_is_on_the_node_with_the_fewest(taken, moves):
    made = cluster([HEAD, GPU, SPOT], nodes=100)
    total = {**NODES, "a": dict(SPOT.resources), "b-b": dict(SPOT.resources)}
    left = {name: dict(node) for name, node in total.items()}
    left["gpu"]["CPU"] -= 2
    left["gpu"]["GPU"] -= 1
    left["gpu"][LEARNER_NODES] -= 0.002
    for node in taken.values():
        left[node]["CPU"] -= 1
        left[node][ACTOR_NODES] -= 0.001
    env_workers = {remote: actor("xyz".index(remote)) for remote in taken}

    def moved():
        return made.consolidate(ClusterSnapshot(total, left, taken), env_workers, FIXED_NODES)

    if moves is None:
        assert moved() is None
        return
    assert moved() == (moves, {"x": "b-b", "y": "a"}[moves])
    # What others run on a node keeps it; without enough room no_process moves either.
    left[taken[moves]]["CPU"] -= 1
    assert moved()[0] != moves
    left[taken[moves]]["CPU"] += 1
    (goal,) = set(taken.values()) - {taken[moves]}
    left[goal]["CPU"] = 0.5
    assert moved() is None

"""What each remote asks of a cluster's nodes."""

from __future__ import annotations

import pytest

from common.config import Config
from common.parts import Role
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES, ResourceRequest, resource_requests


def by_role(values=None, offered=(), gpus=False):
    wanted = resource_requests(Config.model_validate(values or {}), offered, gpus)
    return {request.role: request for request in wanted}


@pytest.mark.parametrize(
    ("device", "there", "gpus"),
    [
        ("cpu", True, 0),
        ("cuda", False, 1),
        ("cuda:0", True, 1),
        ("cuda:2", True, 3),
        ("mps", True, 0),
        ("auto", False, 0),
        ("auto", True, 1),
    ],
)
def test_the_learner_alone_asks_for_gpus(device, there, gpus):
    # A remote sees the GPUs that it asked for, counted from 0: the third of them needs three.
    wanted = by_role({"learner": {"device": device}}, gpus=there)
    assert wanted.pop("learner").gpus == gpus
    assert {request.gpus for request in wanted.values()} == {0}


def test_where_nodes_say_what_they_are_for_each_part_asks_for_its_kind():
    wanted = by_role(offered=[LEARNER_NODES, ACTOR_NODES])
    assert {role: request.resource for role, request in wanted.items()} == {
        "learner": LEARNER_NODES,
        "shard": LEARNER_NODES,
        "weight-store": LEARNER_NODES,
        "actor": ACTOR_NODES,
        "evaluator": ACTOR_NODES,
    }
    assert all(request.resource is None for request in by_role().values())
    spread = by_role({"placement": {"shards": "spread"}}, offered=[LEARNER_NODES, ACTOR_NODES])
    assert spread["shard"].resource is None
    assert spread["learner"].resource == LEARNER_NODES


def test_cpus_are_those_of_the_configuration():
    wanted = by_role(
        {
            "learner": {"threads": 3},
            "placement": {"actor_cpus": 0.5, "shard_cpus": 2},
            "actors": {"count": 7},
            "replay": {"shards": 2},
        }
    )
    assert {role: (request.cpus, request.count) for role, request in wanted.items()} == {
        "learner": (3.0, 1),
        "shard": (2.0, 2),
        "weight-store": (0.0, 1),
        "actor": (0.5, 7),
        "evaluator": (1.0, 1),
    }
    assert by_role({"actors": {"count": "auto"}})["actor"].count == 0


def test_how_many_fit_a_node():
    request = ResourceRequest(Role.ACTOR, 0.1, resource=ACTOR_NODES)
    assert request.count_fitting({"CPU": 0.3, ACTOR_NODES: 1000}) == 3
    assert request.count_fitting({"CPU": 8.0}) == 0
    assert ResourceRequest(Role.LEARNER, 1.0, gpus=1).count_fitting({"CPU": 8.0, "GPU": 1.0}) == 1
    assert ResourceRequest(Role.SHARD, 0.0, resource="x").bundle() == {"x": 0.001}

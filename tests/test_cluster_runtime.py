"""What a cluster can hold; addresses that are none."""

from __future__ import annotations

import socket

import pytest
import yaml

from common.config import Config
from common.types import UserError
from deploy.cli import main
from deploy.cluster_runtime import BOOTSTRAP, Cluster, Known, NodeKind, connect, known_nodes
from deploy.demands import ACTOR_NODES, LEARNER_NODES, demands

HEAD = NodeKind({"CPU": 0.0}, 1)
GPU = NodeKind({"CPU": 4.0, "GPU": 1.0, LEARNER_NODES: 1000}, 1)
SPOT = NodeKind({"CPU": 8.0, ACTOR_NODES: 1000}, 10)


def cluster(kinds, nodes=None, **values):
    """Of kinds that are known; claims nothing."""
    made = Cluster.__new__(Cluster)
    made._config = Config.model_validate(values)
    made._known = Known(None if kinds is None else tuple(kinds), nodes)
    made._plan()
    return made


def test_actors_fill_the_nodes_that_are_for_them_beside_the_evaluator():
    assert cluster([HEAD, GPU, SPOT]).limit() == 10 * 8 - 1
    assert cluster([HEAD, GPU, SPOT], placement={"actor_cpus": 0.5}).limit() == 10 * 16 - 2
    assert cluster([HEAD, GPU, SPOT], placement={"actor_cpus": 16.0}).limit() == 0


def test_without_roles_everybody_shares():
    # learner 1, shard 1, evaluator 1: five are left.
    assert cluster([NodeKind({"CPU": 8.0}, 1)]).limit() == 5


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
        cluster([NodeKind({"CPU": 8.0}, 1)], **values)._check()


def test_a_learner_that_may_choose_takes_a_gpu_where_there_is_one():
    with_gpu = demands(Config(), {"CPU", "GPU"}, True)[0]
    assert with_gpu.gpus == 1
    cluster([HEAD, GPU, SPOT])._check()


def test_the_head_knows_its_cluster_file(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert known_nodes(tmp_path) == Known(None, 0), "started by hand: who is there is all"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert known_nodes(tmp_path) == Known(None, None), "there is no telling"
    file = tmp_path / BOOTSTRAP
    document = {
        "max_workers": 4,
        "provider": {"type": "aws"},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "spot": {"resources": {"CPU": 8}, "max_workers": 100},
        },
    }
    file.write_text(yaml.safe_dump(document))
    assert known_nodes(tmp_path) == Known(
        (NodeKind({"CPU": 0.0}, 1), NodeKind({"CPU": 8.0}, 5)), None
    )
    file.write_text(yaml.safe_dump({"provider": {"type": "local", "worker_ips": ["a", "b"]}}))
    assert known_nodes(tmp_path) == Known(None, 3)
    for text in ("[1, 2]", "provider: {", "{}"):
        file.write_text(text)
        assert known_nodes(tmp_path) == Known(None, None)


@pytest.mark.parametrize(
    "address", ["here", "ray://", "10.0.0.1", "10.0.0.1:x", ":6379", "a:70000"]
)
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match="must be auto, HOST:PORT or ray://HOST:PORT"):
        connect(address)


def test_an_address_that_does_not_answer(capsys):
    with socket.socket() as listener:  # bound, and not listening
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert main(["train", "--address", f"127.0.0.1:{port}"]) == 2
        assert main(["status", "--address", f"ray://127.0.0.1:{port}"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if "does not answer" in line] == [
        line for line in err if line.startswith("raydqn: error:")
    ]
    assert main(["train", "--address", "auto", "--inline"]) == 2

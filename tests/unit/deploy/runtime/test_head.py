"""Nodes that the head of a cluster knows of, from its cluster file or from Kubernetes."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from common.config import Config
from common.parts import LEARNER
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES
from deploy.runtime.head import BOOTSTRAP, ClusterCapacity, NodeType, known_nodes
from deploy.runtime.plan import ClusterPlan
from support.paths import ROOT


def cluster(kinds, nodes=None, offers=frozenset(), live=()):
    """The plan of a run with defaults."""
    return ClusterPlan(Config(), ClusterCapacity(kinds, nodes, offers), lambda: live)


def test_the_head_knows_its_cluster_file(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert known_nodes(tmp_path) == ClusterCapacity(None, 0), "started by hand: who is there is all"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    unread = known_nodes(tmp_path)
    assert (unread.kinds, unread.nodes) == (None, None), "there is no telling"
    assert "Kubernetes does not tell which nodes may come" in unread.remark
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
    assert known_nodes(tmp_path) == ClusterCapacity(
        (NodeType({"CPU": 0.0}, 1), NodeType({"CPU": 8.0}, 5)), 5
    )
    file.write_text(yaml.safe_dump({"provider": {"type": "local", "worker_ips": ["a", "b"]}}))
    assert known_nodes(tmp_path) == ClusterCapacity(None, 3)
    for text in ("[1, 2]", "provider: {", "{}"):
        file.write_text(text)
        assert known_nodes(tmp_path) == ClusterCapacity(None, None)


@pytest.fixture
def kubernetes(monkeypatch):
    """Kubernetes' API, as far as the head asks it; a list of what was asked, and the answer."""
    documents = yaml.safe_load_all((ROOT / "deploy/clusters/kuberay.yaml").read_text())
    job = next(document for document in documents if document["kind"] == "RayJob")
    # KubeRay makes the RayCluster of a job.
    answer = {
        "metadata": {"name": "mine", "namespace": "lab"},
        "spec": job["spec"]["rayClusterSpec"],
    }
    asked = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            there = self.path.endswith("/namespaces/lab/rayclusters/mine")
            self.send_response(200 if there else 403)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    from ray.autoscaler._private.kuberay import node_provider

    url_of = node_provider.url_from_resource

    def url(**of):  # TLS is not what is tested
        path = url_of(**of, kubernetes_host="https://api").removeprefix("https://api")
        return f"http://127.0.0.1:{server.server_port}{path}"

    monkeypatch.setattr(node_provider, "url_from_resource", url)
    secrets = ({"Authorization": "Bearer it"}, "", None)
    monkeypatch.setattr(node_provider, "load_k8s_secrets", lambda: secrets)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "api")
    monkeypatch.setenv("RAY_CLUSTER_NAME", "mine")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "lab")
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked, answer
        server.shutdown()


def test_on_kubernetes_roles_and_gpus_are_known_before_any_pod_is_there(tmp_path, kubernetes):
    asked, _ = kubernetes
    known = known_nodes(tmp_path)
    assert asked == [("/apis/ray.io/v1/namespaces/lab/rayclusters/mine", "Bearer it")]
    assert (known.nodes, known.remark) == (1 + 1 + 16, "")
    assert [kind.count for kind in known.kinds] == [1, 1, 16]
    made = cluster(known.kinds, known.nodes)
    assert made.fixed[LEARNER].bundle() == {"CPU": 1.0, "GPU": 1.0, LEARNER_NODES: 0.001}
    assert ACTOR_NODES in made.actor.bundle()
    assert made.max_actors() == 16 * 16 - 1
    made.check()


def test_on_kubernetes_without_its_autoscaler_no_more_pods_start(tmp_path, kubernetes):
    _, answer = kubernetes
    del answer["spec"]["enableInTreeAutoscaling"]
    learner, actors = answer["spec"]["workerGroupSpecs"]
    learner["replicas"], actors["replicas"] = 1, 2
    known = known_nodes(tmp_path)
    assert [kind.count for kind in known.kinds] == [1, 1, 2]


def test_an_error_of_kubernetes_is_reported_once_and_the_run_continues(
    tmp_path, kubernetes, monkeypatch
):
    monkeypatch.setenv("RAY_CLUSTER_NAME", "theirs")
    known = known_nodes(tmp_path)
    assert (known.kinds, known.nodes) == (None, None)
    assert "does not tell which nodes may come (HTTPError: 403" in known.remark
    assert len(known.remark.splitlines()) == 1


def test_on_machines_of_ones_own_a_gpu_and_roles_still_to_come_are_waited_for(tmp_path):
    document = yaml.safe_load((ROOT / "deploy/clusters/on-prem.yaml").read_text())
    head, workers = document["head_start_ray_commands"], document["worker_start_ray_commands"]
    document["head_start_ray_commands"], document["worker_start_ray_commands"] = workers, head
    (tmp_path / BOOTSTRAP).write_text(yaml.safe_dump(document))
    known = known_nodes(tmp_path)
    assert known == ClusterCapacity(None, 3, frozenset({"GPU", LEARNER_NODES, ACTOR_NODES}))
    node = NodeType({"CPU": 8.0, ACTOR_NODES: 1000}, 1)
    made = cluster(None, 3, known.offers, [node])
    assert made.fixed[LEARNER].bundle() == {"CPU": 1.0, "GPU": 1.0, LEARNER_NODES: 0.001}
    assert not made.may_miss_a_gpu

"""What a cluster can hold; addresses that are none; two runs on one cluster."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
import yaml

from actors.environments import environment_spec
from common.config import Config
from common.errors import RemoteDiedError, UserError
from common.handles import Failed
from deploy.cli.main import main
from deploy.control.client import services_at
from deploy.control.service import ControlService
from deploy.resources.memory import check_memory
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES, resource_requests
from deploy.runtime import placement as cluster_runtime
from deploy.runtime.names import NAMESPACE, service_names
from deploy.runtime.placement import (
    BOOTSTRAP,
    Cluster,
    ClusterCapacity,
    ClusterSnapshot,
    NodeType,
    _ask_head,
    as_user_errors,
    check_memories,
    connect,
    joined_cluster,
    known_nodes,
)
from deploy.runtime.ray_runtime import (
    NOT_THERE,
    START_TRIES,
    RayRuntime,
    RemoteFuture,
    _end,
    _groups_of_their_own,
)
from support.paths import ROOT, TESTS, import_path
from support.program import environment_without_ray, wait_for

HEAD = NodeType({"CPU": 0.0}, 1)
GPU = NodeType({"CPU": 4.0, "GPU": 1.0, LEARNER_NODES: 1000}, 1)
SPOT = NodeType({"CPU": 8.0, ACTOR_NODES: 1000}, 10)


class Lines:
    """A view that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def notify(self, text):
        self.lines.append(text)


def cluster(kinds, nodes=None, offers=frozenset(), **values):
    """Of kinds that are known; claims nothing."""
    made = Cluster.__new__(Cluster)
    made._config = Config.model_validate(values)
    made._known = ClusterCapacity(None if kinds is None else tuple(kinds), nodes, offers)
    made._plan()
    return made


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
        cluster([HEAD, GPU, SPOT], nodes=4, actors={"count": 16})._check()


def test_without_roles_everybody_shares():
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
        cluster([NodeType({"CPU": 8.0}, 1)], **values)._check()


def test_a_learner_that_may_choose_takes_a_gpu_where_there_is_one():
    with_gpu = resource_requests(Config(), {"CPU", "GPU"}, True)[0]
    assert with_gpu.gpus == 1
    cluster([HEAD, GPU, SPOT])._check()


def test_the_head_knows_its_cluster_file(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert known_nodes(tmp_path) == ClusterCapacity(None, 0), "started by hand: who is there is all"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    unread = known_nodes(tmp_path)
    assert (unread.kinds, unread.nodes) == (None, None), "there is no telling"
    assert "Kubernetes does not say which nodes may come" in unread.remark
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


@pytest.mark.parametrize(
    "address", ["here", "ray://", "10.0.0.1", "10.0.0.1:x", ":6379", "a:70000"]
)
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match="must be auto, HOST:PORT or ray://HOST:PORT"):
        connect(address)


@pytest.mark.parametrize("host", ["..", "a" * 70, "a..b"])
def test_a_host_that_no_machine_can_have(host):
    with pytest.raises(UserError, match="cannot be a machine's name"):
        connect(f"{host}:6379")


def test_an_address_that_does_not_answer(capsys):
    with socket.socket() as events:  # bound, and not listening
        events.bind(("127.0.0.1", 0))
        port = events.getsockname()[1]
        assert main(["train", "--address", f"127.0.0.1:{port}"]) == 2
        assert main(["status", "--address", f"ray://127.0.0.1:{port}"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if "does not answer" in line] == [
        line for line in err if line.startswith("raydqn: error:")
    ]
    assert main(["train", "--address", "auto", "--inline"]) == 2


CLIENTS, CONTROL = "/ray.rpc.RayletDriver/ClusterInfo", "/ray.rpc.NodeInfoGcsService/CheckAlive"


class OnePort(grpc.GenericRpcHandler):
    """What a port of Ray's answers to whoever has the token: one method, here."""

    def __init__(self, method, token):
        self._method, self._token = method, token

    def service(self, details):
        if details.method != self._method:
            return None

        def answer(request, context):
            if dict(details.invocation_metadata).get("authorization") != f"Bearer {self._token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid token")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def one_port(method, token="t" * 64):
    """HOST:PORT of it."""
    server = grpc.server(ThreadPoolExecutor(1), [OnePort(method, token)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


WITH_TOKEN = """
import ray, sys
from deploy.runtime.placement import connect
from common.errors import UserError
ray.init = lambda **_: print("let in")
for address in sys.argv[1:]:
    try:
        connect(address)
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(("token", "refused"), [("t" * 64, False), ("f" * 64, True), (None, True)])
def test_a_wrong_token_and_a_wrong_port_are_told_at_once(tmp_path, token, refused):
    # In a process of its own: Ray looks for a token once.
    env = environment_without_ray() | {
        "RAY_AUTH_MODE": "token",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    env |= {"RAY_AUTH_TOKEN": token} if token else {}
    with one_port(CLIENTS) as clients, one_port(CONTROL) as control:
        right, wrong = [f"ray://{clients}", control], [clients, f"ray://{control}"]
        said = subprocess.run(
            [sys.executable, "-c", WITH_TOKEN, *right, *wrong],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    for address, line in zip(right, said[:2], strict=True):
        if refused:
            assert line.startswith(f"--address={address}: refused: "), line
            assert "put its own into ~/.ray/auth_token" in line
        else:
            assert line == "let in"
    if token:
        assert said[2:] == [
            f"--address={clients}: that port is for addresses with ray://, as ray://{clients}",
            f"--address=ray://{control}: that port is for addresses without ray://, as {control}",
        ]


@pytest.fixture
def not_served(monkeypatch):
    """An address where Ray's client is not served as often as the list is long."""
    said = (
        "Initialization failure from server:\nTraceback (most recent call last):\n"
        '  File "ray/_private/authentication.py", line 772, in Datapath\n    raise RuntimeError(\n'
        "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err\n"
    )
    times = []

    def init(**_):
        if times:
            times.pop()
            raise ConnectionError(said)

    monkeypatch.setattr("ray.init", init)
    with one_port(CLIENTS) as clients:
        monkeypatch.setattr("deploy.runtime.placement._check_lets_in", lambda address: None)
        yield f"ray://{clients}", times


def test_a_client_that_is_not_served_tries_once_more(not_served):
    address, times = not_served
    times.append(1)
    connect(address)
    assert not times


def test_a_head_that_serves_no_client_is_told_by_what_it_said(not_served):
    address, times = not_served
    times.extend(range(5))
    with pytest.raises(UserError) as caught:
        connect(address)
    assert len(times) == 5 - 2
    assert str(caught.value).startswith(
        f"--address={address}: its head answers, but could not begin to serve us"
    )
    assert str(caught.value).endswith("; if it is busy, try again")
    assert "See ray_client_server_23000.err" in str(caught.value)


# --- what is known of nodes to come -------------------------------------------------------------


@pytest.fixture
def kubernetes(monkeypatch):
    """Kubernetes' API, as far as the head asks it; a list of what was asked, and the answer."""
    documents = yaml.safe_load_all((ROOT / "deploy/clusters/kuberay.yaml").read_text())
    answer = next(document for document in documents if document["kind"] == "RayCluster")
    answer["metadata"]["namespace"] = "lab"
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
    assert made._fixed[0].bundle() == {"CPU": 1.0, "GPU": 1.0, LEARNER_NODES: 0.001}
    assert ACTOR_NODES in made._actor.bundle()
    assert made.max_actors() == 16 * 16 - 1
    made._check()


def test_on_kubernetes_without_its_autoscaler_nobody_starts_more(tmp_path, kubernetes):
    _, answer = kubernetes
    del answer["spec"]["enableInTreeAutoscaling"]
    learner, actors = answer["spec"]["workerGroupSpecs"]
    learner["replicas"], actors["replicas"] = 1, 2
    known = known_nodes(tmp_path)
    assert [kind.count for kind in known.kinds] == [1, 1, 2]


def test_what_kubernetes_does_not_tell_is_said_once_and_the_run_goes_on(
    tmp_path, kubernetes, monkeypatch
):
    monkeypatch.setenv("RAY_CLUSTER_NAME", "theirs")
    known = known_nodes(tmp_path)
    assert (known.kinds, known.nodes) == (None, None)
    assert "does not say which nodes may come (HTTPError: 403" in known.remark
    assert len(known.remark.splitlines()) == 1


def test_on_machines_of_ones_own_a_gpu_and_roles_still_to_come_are_waited_for(
    tmp_path, monkeypatch
):
    document = yaml.safe_load((ROOT / "deploy/clusters/on-prem.yaml").read_text())
    head, workers = document["head_start_ray_commands"], document["worker_start_ray_commands"]
    document["head_start_ray_commands"], document["worker_start_ray_commands"] = workers, head
    (tmp_path / BOOTSTRAP).write_text(yaml.safe_dump(document))
    known = known_nodes(tmp_path)
    assert known == ClusterCapacity(None, 3, frozenset({"GPU", LEARNER_NODES, ACTOR_NODES}))
    node = NodeType({"CPU": 8.0, ACTOR_NODES: 1000}, 1)
    monkeypatch.setattr(Cluster, "_kinds", lambda self: [node])
    made = cluster(None, 3, known.offers)
    assert made._fixed[0].bundle() == {"CPU": 1.0, "GPU": 1.0, LEARNER_NODES: 0.001}
    assert not made._learns_on_cpu_unknowingly


# --- on a Ray that acts as a cluster of one node ------------------------------------------------


class Part:
    """Something that holds a place."""


SMALL = Config.model_validate({"actors": {"count": "auto"}})


def started(start):
    """What `start()` returns, a node of Ray's: it may need more than one try (see `NOT_THERE`)."""
    with _groups_of_their_own() as processes:
        for _ in range(START_TRIES - 1):
            try:
                return start()
            except Exception as error:
                _end(processes)
                if NOT_THERE not in str(error):
                    raise
        return start()


def one_more(nodes, **holds):
    return started(lambda: nodes.add_node(num_gpus=0, object_store_memory=80 << 20, **holds))


@pytest.fixture(scope="module")
def one_node():
    """Eight CPUs, and this process is connected; a test may add nodes."""
    from ray.cluster_utils import Cluster as Nodes

    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", import_path(TESTS / "ray"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        head = {"num_cpus": 8, "num_gpus": 0, "object_store_memory": 100 << 20}
        nodes = started(
            lambda: Nodes(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        )
        try:
            ray.init(
                address=nodes.address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="error",
            )
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def test_two_runs_share_a_cluster_and_what_one_holds_is_no_room_for_the_other(one_node):
    view = Lines()
    mine, theirs = Cluster(SMALL, view), Cluster(SMALL, view)
    assert [line for line in view.lines if "learning is on the CPU: no node has a GPU" in line]

    def room(of, parts=(), starting=0):
        return RayRuntime(of).capacity(list(parts), starting).result()

    # A learner, a shard and, still to come, an evaluator of one's own; learner and shard of theirs.
    wait_for(lambda: (room(mine), room(theirs)) == (3, 3))
    actors = [RayRuntime(mine).spawn(Part, name=f"actor-{i}-0", title=f"actor-{i}") for i in (0, 1)]
    wait_for(lambda: (room(mine, actors), room(theirs)) == (3, 1))
    assert room(mine, starting=2) == 3, "two that start may be what holds that"
    for actor in actors:
        RayRuntime(mine).kill(actor)
    mine.free()
    wait_for(lambda: room(theirs) == 5)
    theirs.free()


def test_where_nodes_can_be_started_there_is_room_on_them_less_what_others_hold(monkeypatch):
    bundles = {0: "gpu", 1: "gpu"}
    monkeypatch.setattr(
        "ray.util.placement_group_table", lambda group: {"bundles_to_node_id": bundles}
    )
    made = cluster([HEAD, GPU, SPOT], nodes=100)
    spot = dict(SPOT.resources)
    total = {"head": dict(HEAD.resources), "gpu": dict(GPU.resources), "spot": spot}
    used = {**spot, "CPU": 8.0 - 1 - 2 - 4}  # our evaluator and two actors; four of others
    places = {"a": "spot", "b": "spot", "e": "spot"}
    seen = ClusterSnapshot(total, {"head": {}, "gpu": {"CPU": 2.0}, "spot": used}, places)
    players = {"a": "actor-0-0", "b": "actor-1-0", "e": "evaluator-0", "c": "actor-2-0"}
    assert made._capacity_in(players, 0, seen) == made.max_actors() - 4
    assert made._capacity_in(players, 1, seen) == made.max_actors() - 3, (
        "that may be the one that starts"
    )
    monkeypatch.setattr(made, "_known", ClusterCapacity(None, None))
    assert made._capacity_in(players, 0, seen) == 8 - 1 - 4, "only nodes that are there"


def test_a_name_that_a_run_has_is_refused(one_node, monkeypatch):
    import ray

    runtime = RayRuntime(Cluster(SMALL, Lines()))
    title = "control-service"
    named = {"name": f"{title}-3", "title": title, "public_name": f"mine:{title}-3"}
    service = runtime.spawn(ControlService, "mine", **named)
    service.call("status").result()
    assert service_names() == {"mine": "mine:control-service-3"}
    monkeypatch.setattr(cluster_runtime, "connect", lambda address, code=(): None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with (
        pytest.raises(UserError, match=r"^mine: a run of that name goes on there"),
        joined_cluster("auto", SMALL, Lines(), "mine"),
    ):
        pass
    with pytest.raises(UserError, match="another run of that name has just begun"):
        runtime.spawn(ControlService, "mine", **named)
    # One that ended since it was listed is no error.
    monkeypatch.setattr(
        "deploy.runtime.public_handles.service_names",
        lambda: {"gone": "gone:control-service-0", "mine": "mine:control-service-3"},
    )
    monkeypatch.setattr("deploy.runtime.public_handles.connect", lambda address: None)
    with services_at("auto") as services:
        assert list(services) == ["mine"]
    runtime.kill(service)
    runtime._placement.free()


class NeedsMore:
    """What nodes without all our dependencies cannot read."""

    def __reduce__(self):
        return importlib.import_module, ("no_such_module",)


def test_a_node_that_lacks_what_our_code_needs_is_an_error_of_one_line(one_node, monkeypatch):
    import ray

    def asked(_=NeedsMore()):  # noqa: B008 to have it travel with the function
        pass

    says = (
        "^--address=ray://a:1: a node there has no module no_such_module; install raydqn's "
        "dependencies on all nodes, in the versions of constraints.txt$"
    )
    with pytest.raises(UserError, match=says), as_user_errors("--address=ray://a:1"):
        RemoteFuture(ray.remote(asked).remote(), "it").result()

    def slow():
        threading.Event().wait(60)

    monkeypatch.setattr(cluster_runtime, "known_nodes", slow)
    monkeypatch.setattr(cluster_runtime, "HEAD_S", 0.5)

    def says_of(work):
        with pytest.raises(UserError) as caught, as_user_errors("it"):
            work()
        return str(caught.value)

    assert says_of(_ask_head).startswith("it: its head did not answer within 0.5 s")
    lost = Failed(RemoteDiedError("learner", "its machine is gone", True))
    assert says_of(lost.result).startswith("it: learner died (its machine is gone), before the run")
    failing = ray.remote(lambda: 1 / 0)
    assert says_of(lambda: ray.get(failing.remote())) == "it: ZeroDivisionError: division by zero"


def test_a_connection_that_is_gone_does_not_hide_why_a_run_ends(monkeypatch):
    def gone(group):
        raise ConnectionError("gone")

    monkeypatch.setattr("ray.util.remove_placement_group", gone)
    made = cluster([HEAD, GPU, SPOT])
    made._group = object()
    made.free()
    assert made._group is None


def test_every_machine_that_is_to_hold_shards_is_asked_for_memory_for_its_own(one_node):
    config = Config.model_validate({"replay": {"shards": 4}})
    made = Cluster(config, Lines())

    class TwoMachines(RayRuntime):
        """One machine that acts as if it were two."""

        def __init__(self, placement):
            super().__init__(placement)
            self.asked = []

        def run_on(self, title, function, *arguments):
            answer = super().run_on(title, function, *arguments)
            if function is not check_memory:
                return f"{answer}-{title == 'shard-2'}"
            self.asked.append((title, arguments[-1]))
            return answer

    runtime = TwoMachines(made)
    check_memories(config, environment_spec(config.env), runtime)
    assert runtime.asked == [("shard-0", 0.75), ("shard-2", 0.25)]
    made.free()


def test_who_lives_alone_moves_to_others_so_that_its_node_becomes_empty(one_node, monkeypatch):
    small = {"CPU": 2.0, ACTOR_NODES: 1000.0}
    kinds = (NodeType({"CPU": 8.0}, 1), NodeType(small, 2))
    monkeypatch.setattr(cluster_runtime, "_ask_head", lambda: ClusterCapacity(kinds, 3))
    made = Cluster(SMALL, Lines())
    runtime = RayRuntime(made)
    added = [one_more(one_node, num_cpus=2, resources={ACTOR_NODES: 1000}) for _ in range(2)]

    def spawn(incarnation):
        return runtime.spawn(Part, name=f"actor-0-{incarnation}", title="actor-0")

    def places(*actors):
        names = {actor.remote._actor_id.hex(): actor.name for actor in actors}
        seen = made._look(names).result().places
        return [seen.get(actor_id) for actor_id in names]

    first, second = (node.node_id for node in added)
    actors = []
    for node in (first, second):  # both of one title: what counts is where they are
        made._goals["actor-0"] = node
        actors.append(spawn(len(actors)))
    wait_for(lambda: places(*actors) == [first, second])
    mover = wait_for(lambda: runtime.consolidate(actors).result())
    (stays,) = [actor for actor in actors if actor is not mover]
    successor = spawn(2)
    runtime.kill(mover)
    wait_for(lambda: places(successor) == places(stays) != [None])
    assert runtime.consolidate([successor, stays]).result() is None, (
        "there is only one node left in use"
    )
    for actor in (successor, stays):
        runtime.kill(actor)
    made.free()
    for node in added:
        one_node.remove_node(node)


def test_shards_live_near_the_learner_or_are_spread(one_node):
    from ray.util import placement_group_table

    added = one_more(one_node, num_cpus=4)
    for shards, nodes in (("near", 1), ("spread", 2)):
        values = {"replay": {"shards": 2}, "placement": {"shards": shards}}
        made = Cluster(Config.model_validate(values), Lines())
        bundles = placement_group_table(made._group)["bundles_to_node_id"]
        assert len(set(bundles.values())) == nodes
        made.free()
    one_node.remove_node(added)


OTHER_VERSION = """
import sys, ray
ray.__version__ = "2.59.0"
from deploy.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_another_version_of_ray_is_refused_in_one_line(one_node):
    import ray

    asked = [sys.executable, "-c", OTHER_VERSION, "status", "--address", one_node.address]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"raydqn: error: --address={one_node.address}: the cluster has other versions"
    )
    assert done.stderr.count("\n") == 1, done.stderr
    assert "install ray 2.59.0 and Python" in done.stderr
    assert f"Ray: {ray.__version__}" in done.stderr, "what the cluster has"


NODES = {"head": {"CPU": 0.0, "node:__internal_head__": 1.0}, "gpu": dict(GPU.resources)}


@pytest.mark.parametrize(
    ("taken", "moves"),
    [
        ({"x": "a", "y": "b-b", "z": "b-b"}, "x"),
        ({"x": "a", "y": "b-b", "z": "a"}, "y"),
        ({"x": "a", "y": "a", "z": "a"}, None),  # nobody else is anywhere
    ],
    ids=["the-one-alone", "the-other-one", "all-together"],
)
def test_who_moves_is_of_the_node_with_the_fewest(monkeypatch, taken, moves):
    monkeypatch.setattr(
        "ray.util.placement_group_table", lambda group: {"bundles_to_node_id": {0: "gpu", 1: "gpu"}}
    )
    made = cluster([HEAD, GPU, SPOT], nodes=100)
    total = {**NODES, "a": dict(SPOT.resources), "b-b": dict(SPOT.resources)}
    left = {name: dict(node) for name, node in total.items()}
    left["gpu"]["CPU"] -= 2
    left["gpu"]["GPU"] -= 1
    left["gpu"][LEARNER_NODES] -= 0.002
    for node in taken.values():
        left[node]["CPU"] -= 1
        left[node][ACTOR_NODES] -= 0.001
    players = {part: f"actor-{'xyz'.index(part)}-7" for part in taken}
    assert made._consolidate_in(players, ClusterSnapshot(total, left, taken)) == moves
    if moves is None:
        return
    title = players[moves].rpartition("-")[0]
    assert made._goals == {title: {"x": "b-b", "y": "a"}[moves]}
    # What others run on a node keeps it; without enough room nobody moves either.
    left[taken[moves]]["CPU"] -= 1
    assert made._consolidate_in(players, ClusterSnapshot(total, left, taken)) not in (moves, None)
    left[taken[moves]]["CPU"] += 1
    (goal,) = set(taken.values()) - {taken[moves]}
    left[goal]["CPU"] = 0.5
    assert made._consolidate_in(players, ClusterSnapshot(total, left, taken)) is None

"""Runs on a cluster of one node or more, which a Ray of this test's own acts as."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading

import pytest

from actors.environments import environment_spec
from common.config import Config
from common.errors import RemoteDiedError, UserError
from common.handles import Failed
from common.parts import CONTROL_SERVICE, actor, shard
from deploy.control.remote_run import services_at
from deploy.control.service import ControlService
from deploy.resources.memory import check_memory
from deploy.resources.requests import ACTOR_NODES
from deploy.runtime import connect, head
from deploy.runtime.connect import as_user_errors, joined_cluster
from deploy.runtime.head import ClusterCapacity, NodeType, ask_head
from deploy.runtime.local_ray import START_TIMED_OUT, START_TRIES, end_processes
from deploy.runtime.names import NAMESPACE, service_name, service_names
from deploy.runtime.placement import Cluster
from deploy.runtime.preflight import check_memories
from deploy.runtime.ray_actor import RemoteFuture
from deploy.runtime.ray_private import id_of, nodes_of, processes_in_own_groups
from deploy.runtime.ray_runtime import RayRuntime
from support.paths import ROOT, TESTS, import_path
from support.program import wait_for


class Lines:
    """A view that records each event."""

    def __init__(self):
        self.lines = []

    def notify(self, text):
        self.lines.append(text)


# --- on a Ray that acts as a cluster of one node ------------------------------------------------


class Part:
    """Something that holds a place."""


SMALL = Config.model_validate({"actors": {"count": "auto"}})


def started(start):
    """Result of `start()`, a node of Ray's, in more than one try (see `START_TIMED_OUT`)."""
    with processes_in_own_groups() as processes:
        for _ in range(START_TRIES - 1):
            try:
                return start()
            except Exception as error:
                end_processes(processes)
                if START_TIMED_OUT not in str(error):
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


def test_two_runs_share_a_cluster_and_neither_counts_what_the_other_holds(one_node):
    view = Lines()
    mine, theirs = Cluster(SMALL, view), Cluster(SMALL, view)
    assert [line for line in view.lines if "learning is on the CPU: no node has a GPU" in line]

    def room(of, parts=(), starting=0):
        return RayRuntime(of).capacity(list(parts), starting).result()

    # A learner, a shard and, still to come, an evaluator of one's own; learner and shard of theirs.
    wait_for(lambda: (room(mine), room(theirs)) == (3, 3))
    actors = [RayRuntime(mine).spawn(Part, part=actor(i), incarnation=0) for i in (0, 1)]
    wait_for(lambda: (room(mine, actors), room(theirs)) == (3, 1))
    assert room(mine, starting=2) == 3, "two that start may be what holds that"
    for handle in actors:
        RayRuntime(mine).kill(handle)
    mine.free()
    wait_for(lambda: room(theirs) == 5)
    theirs.free()


def test_a_name_that_a_run_has_is_refused(one_node, monkeypatch):
    import ray

    runtime = RayRuntime(Cluster(SMALL, Lines()))
    name = service_name("mine", 3)

    def spawn():
        return runtime.spawn(
            ControlService, "mine", part=CONTROL_SERVICE, incarnation=3, public_name=name
        )

    service = spawn()
    service.call("status").result()
    assert service_names() == {"mine": name}
    monkeypatch.setattr(connect, "connect", lambda address, code=(): None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with (
        pytest.raises(UserError, match=r"^mine: a run of that name is active there"),
        joined_cluster("auto", SMALL, Lines(), "mine"),
    ):
        pass
    with pytest.raises(UserError, match="another run of that name has just begun"):
        spawn()
    # One that ended since it was listed is no error.
    monkeypatch.setattr(
        "deploy.runtime.names.service_names",
        lambda: {"gone": service_name("gone", 0), "mine": name},
    )
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

    monkeypatch.setattr(head, "known_nodes", slow)
    monkeypatch.setattr(head, "HEAD_S", 0.5)

    def says_of(work):
        with pytest.raises(UserError) as caught, as_user_errors("it"):
            work()
        return str(caught.value)

    assert says_of(ask_head).startswith("it: its head did not answer within 0.5 s")
    lost = Failed(RemoteDiedError("learner", "its machine is gone", True))
    assert says_of(lost.result).startswith("it: learner died (its machine is gone), before the run")
    failing = ray.remote(lambda: 1 / 0)
    assert says_of(lambda: ray.get(failing.remote())) == "it: ZeroDivisionError: division by zero"


def test_a_connection_that_is_gone_does_not_hide_why_a_run_ends(monkeypatch):
    def gone(group):
        raise ConnectionError("gone")

    monkeypatch.setattr("ray.util.remove_placement_group", gone)
    made = Cluster.__new__(Cluster)
    made._group = object()
    made.free()
    assert made._group is None


def test_each_machine_is_asked_for_the_memory_of_its_own_shards(one_node):
    config = Config.model_validate({"replay": {"shards": 4}})
    made = Cluster(config, Lines())

    class TwoMachines(RayRuntime):
        """One machine that acts as if it were two."""

        def __init__(self, placement):
            super().__init__(placement)
            self.asked = []

        def run_on(self, part, function, *arguments):
            answer = super().run_on(part, function, *arguments)
            if function is not check_memory:
                return f"{answer}-{part == shard(2)}"
            self.asked.append((part, arguments[-1]))
            return answer

    runtime = TwoMachines(made)
    check_memories(config, environment_spec(config.env), runtime)
    assert runtime.asked == [(shard(0), 0.75), (shard(2), 0.25)]
    made.free()


def test_a_lone_actor_moves_to_another_node_so_that_its_own_becomes_empty(one_node, monkeypatch):
    small = {"CPU": 2.0, ACTOR_NODES: 1000.0}
    kinds = (NodeType({"CPU": 8.0}, 1), NodeType(small, 2))
    monkeypatch.setattr("deploy.runtime.placement.ask_head", lambda: ClusterCapacity(kinds, 3))
    made = Cluster(SMALL, Lines())
    runtime = RayRuntime(made)
    added = [one_more(one_node, num_cpus=2, resources={ACTOR_NODES: 1000}) for _ in range(2)]

    def spawn(incarnation):
        return runtime.spawn(Part, part=actor(0), incarnation=incarnation)

    def places(*actors):
        ids = [id_of(handle.remote) for handle in actors]
        seen = nodes_of(ids)
        return [seen.get(actor_id) for actor_id in ids]

    first, second = (node.node_id for node in added)
    actors = []
    for node in (first, second):  # both of one part: what counts is where they are
        made.place_next(actor(0), node)
        actors.append(spawn(len(actors)))
    wait_for(lambda: places(*actors) == [first, second])
    mover = wait_for(lambda: runtime.consolidate(actors).result())
    (stays,) = [handle for handle in actors if handle is not mover]
    successor = spawn(2)
    runtime.kill(mover)
    wait_for(lambda: places(successor) == places(stays) != [None])
    assert runtime.consolidate([successor, stays]).result() is None, (
        "there is only one node left in use"
    )
    for handle in (successor, stays):
        runtime.kill(handle)
    made.free()
    for node in added:
        one_node.remove_node(node)


def test_shards_are_near_the_learner_or_spread(one_node):
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

"""Ray's autoscaler starts nodes for parts that wait for them, and ends idle ones."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from support.hosts import Hosts
from support.paths import ROOT
from support.program import CALM, wait_for

FAKE_RUN = "autoscaled"
FAKE_HEAD_ID = "f" * 51 + "00000"
FAKE_OPTIONS = (
    "--address ray://127.0.0.1:10001 --actors.count 2 --stop.env-steps none "
    "--actors.envs 2 --checkpoint.replay false "
    + " ".join(f"'{option}'" for option in CALM)
    + " --env.id own_waits:Sleep-v0"
)


def fake_cluster_file():
    """A head for the driver alone, a node type for the learner, and one for an actor each."""
    commands = (
        "initialization_commands", "setup_commands", "head_setup_commands",
        "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
        "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )  # fmt: skip
    return {
        "cluster_name": "fake",
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_ID,
            "use_node_id_as_ip": True,  # they all have the same address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "max_workers": 4,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 0.1,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "learner": {
                "resources": {"CPU": 2, "raydqn_learner": 1000}, "node_config": {},
                "min_workers": 0, "max_workers": 1,
            },
            "actor": {  # an actor, and the evaluator if it is there
                "resources": {"CPU": 1, "raydqn_actor": 1000}, "node_config": {},
                "min_workers": 0, "max_workers": 3,
            },
        },
        "auth": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        **{name: [] for name in commands},
    }  # fmt: skip


@pytest.fixture
def head(tmp_path, hosts_can_be_made):
    shared = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    hosts = Hosts(1, tmp_path / "hosts", shared, network=1)
    try:
        (host,) = hosts.all
        (host.home / "ray_bootstrap_config.yaml").write_text(json.dumps(fake_cluster_file()))
        yield host
    finally:
        hosts.close()


def on(host, command):
    """A command on the host, with the project's interpreter."""
    words = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}; cd; {command}"
    return host.ssh(words, timeout_s=180.0)  # three tries to start Ray


def test_nodes_start_for_pending_parts_and_end_when_idle(head):
    """Ray's "fake" nodes, with which Ray tests its autoscaler: real raylets, all on one host.

    Only the cloud is missing. `ray up` uses this autoscaler for clouds, and another one, in
    test_on_hosts.py, for the user's own machines. The driver is outside the cluster, and joins it
    by Ray's client.
    """
    started = on(
        head,
        "unset PYTHONPATH; "
        "export RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 RAY_USAGE_STATS_ENABLED=0 "
        "RAY_prestart_worker_first_driver=0 "  # no processes in advance: it is one machine
        f"RAY_enable_autoscaler_v2=1 RAY_CLOUD_INSTANCE_ID={FAKE_HEAD_ID} "
        f"RAY_OVERRIDE_NODE_ID_FOR_TESTING={FAKE_HEAD_ID}; "
        "for try in 1 2 3; do "
        "ray start --head --num-cpus 1 --object-store-memory 200000000 --include-dashboard false "
        "--autoscaling-config ray_bootstrap_config.yaml && exit; ray stop; done; exit 1",
    )
    assert started.returncode == 0, started.stderr
    own = head.home / "own"  # only the driver finds it there: Ray's client sends it to the nodes
    own.mkdir()
    (own / "own_waits.py").write_text("import deploy.bench.sleep_env\n")
    log = head.home / "log"
    on(
        head,
        "export PYTHONPATH=$PYTHONPATH:$HOME/own; nohup python -m deploy train cartpole "
        f"--run-dir runs/{FAKE_RUN} {FAKE_OPTIONS} > {log} 2>&1 < /dev/null &",
    )

    def status():
        path = head.home / "runs" / FAKE_RUN / "status.json"
        return json.loads(path.read_text()) if path.is_file() else {"parts": [], "learner_steps": 0}

    def up(count):
        parts = [part for part in status()["parts"] if part["part"].startswith("actor-")]
        return [part["state"] for part in parts] == ["ready"] * count

    def raylets():
        count = 0
        for process in head.processes():
            with suppress(psutil.NoSuchProcess):
                count += process.name() == "raylet"
        return count

    wait_for(lambda: up(2), 180, what=lambda: f"two actors are ready ({log.read_text()})")
    wait_for(lambda: status()["learner_steps"] > 0, 60, what="the learner learns")
    needed = raylets()
    assert needed >= 4, "head, learner, and a node for each actor"

    said = on(head, f"python -m deploy scale runs/{FAKE_RUN} --actors 1")
    assert said.returncode == 0, said.stderr
    wait_for(lambda: up(1), 30, what="one actor is left")
    wait_for(lambda: raylets() == needed - 1, 90, what="the idle node ends")
    assert up(1)

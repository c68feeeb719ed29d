"""Clusters that are brought up for real: on three hosts, over SSH; and by Ray's autoscaler.

Both in one file: they run one after the other, as each would keep two cores busy.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from support.grafana import queried_metrics
from support.hosts import Hosts, missing
from support.program import CALM, wait_for
from support.three_hosts import ROOT

FAKE_RUN = "autoscaled"
FAKE_HEAD_ID = "f" * 51 + "00000"
FAKE_OPTIONS = (
    "--address ray://127.0.0.1:10001 --actors.count 2 --stop.env-steps none "
    "--actors.envs 2 --checkpoint.replay false "
    + " ".join(f"'{option}'" for option in CALM)
    + " --env.id own_waits:Sleep-v0"
)


def fake_cluster_file():
    """A head that only the driver is on, a type of node for the learner, one for an actor each."""
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
def head(tmp_path):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    hosts = Hosts(1, tmp_path / "hosts", [ROOT, Path(sys.prefix), Path(sys.base_prefix)])
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


def test_nodes_come_when_parts_wait_for_them_and_go_when_they_are_idle(head):
    """Ray's "fake" nodes, with which Ray tests its autoscaler: real raylets, all on one host.

    The cloud that would rent them out is all that is missing. It is the autoscaler that `ray up`
    uses for clouds; the other test has the one for machines of one's own. And the driver is no part
    of the cluster here, but joins it by Ray's client.
    """
    started = on(
        head,
        "unset PYTHONPATH; "
        "export RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 RAY_USAGE_STATS_ENABLED=0 "
        f"RAY_enable_autoscaler_v2=1 RAY_CLOUD_INSTANCE_ID={FAKE_HEAD_ID} "
        f"RAY_OVERRIDE_NODE_ID_FOR_TESTING={FAKE_HEAD_ID}; "
        "for try in 1 2 3; do "
        "ray start --head --num-cpus 1 --object-store-memory 200000000 --include-dashboard false "
        "--autoscaling-config ray_bootstrap_config.yaml && exit; ray stop; done; exit 1",
    )
    assert started.returncode == 0, started.stderr
    own = head.home / "own"  # in the driver's reach alone: the nodes get it by Ray's client
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

    wait_for(lambda: up(2), 180, what=lambda: f"two actors are up ({log.read_text()})")
    wait_for(lambda: status()["learner_steps"] > 0, 60, what="the learner learns")
    needed = raylets()
    assert needed >= 4, "head, learner, and a node for each actor"

    said = on(head, f"python -m deploy scale runs/{FAKE_RUN} --actors 1")
    assert said.returncode == 0, said.stderr
    wait_for(lambda: up(1), 30, what="one actor is left")
    wait_for(lambda: raylets() == needed - 1, 90, what="the idle node is let go")
    assert up(1)


# --- three hosts, over SSH ----------------------------------------------------------------------

LEARNING, ELASTIC = "cartpole-test", "elastic"
KEYS = ("--checkpoint.every-s", "10", "--stop.score", "none", "--stop.env-steps", "none")
LEARNS = (
    *("--actors.count", "4", "--env.id", "own_envs:Own-v0"),
    *("--evaluation.episodes", "20", "--evaluation.envs", "20"),
)
SHORT_EVALUATIONS = (
    *("--evaluation.every-learner-steps", "100"),
    *("--evaluation.episodes", "2", "--evaluation.envs", "2"),
)


def until(look, timeout_s, what):
    """Wait until `look()` is true, and return it."""
    return wait_for(look, timeout_s, poll_s=0.5, what=what)


@contextmanager
def submitted(cluster, run, *keys):
    """A run that is submitted from outside: the command that follows it, and what it writes."""
    log = (cluster.folder / f"{run}.log").open("w+")
    command = [sys.executable, "-m", "deploy", "cluster", "submit", str(cluster.file), "cartpole"]
    process = subprocess.Popen(
        [*command, "--name", run, *KEYS, *keys],
        cwd=ROOT,
        env=cluster.env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()
        log.close()


METRICS = """
import ray, urllib.request
ray.init("auto", logging_level="error")
for node in ray.nodes():
    url = "http://%s:%d/metrics" % (node["NodeManagerAddress"], node["MetricsExportPort"])
    print(urllib.request.urlopen(url).read().decode())
"""


def metrics(cluster):
    """What all nodes export."""
    script = cluster.head.home / "metrics.py"
    script.write_text(METRICS)
    answer = cluster.on(cluster.head, "python metrics.py")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def parts(status, title=""):
    return [part for part in status["parts"] if part["part"].startswith(title)]


def hosts_of(status, title):
    return {part["host"] for part in parts(status, title) if part["state"] == "ready"}


def output(job):
    job[1].flush()
    return (job[1].seek(0), job[1].read())[1]


@pytest.mark.timeout(900)
def test_a_cluster_comes_up_trains_loses_a_host_gets_it_back_and_goes(cluster):
    # CartPole, by a module that is nowhere but with the user.
    with submitted(cluster, LEARNING, *LEARNS) as job:
        it_trains(cluster, job)
    # The second finds the cluster up. Its environment leaves the cores to other tests.
    with submitted(cluster, ELASTIC, "--actors.count", "2", *CALM, *SHORT_EVALUATIONS) as job:
        it_is_elastic(cluster, job)

    # Nothing is left.
    down = cluster.ray("down", "--yes", str(cluster.file))
    assert down.returncode == 0, down.stderr
    until(lambda: not cluster.left(), 180, lambda: f"nothing left: {cluster.left()}")


def acting(cluster, job, run, count, on=None):
    """A look whether so many actors are up, all of them on these hosts, some on each."""

    def look():
        assert job[0].poll() is None, output(job)
        status = cluster.status(run)
        up = [part for part in parts(status, "actor-") if part["state"] == "ready"]
        hosts = hosts_of(status, "actor-")
        workers = {host.name for host in cluster.workers}
        fits = hosts == on if on is not None else hosts <= workers
        return status if len(up) == count and fits else None

    return look


def it_trains(cluster, job):
    """Learner and shard on the head, actors on both of the others: no host could hold all four."""
    workers = {host.name for host in cluster.workers}
    status = until(acting(cluster, job, LEARNING, 4, workers), 300, "four actors on two hosts")
    assert hosts_of(status, "learner") == hosts_of(status, "shard-") == {cluster.head.name}

    # Seven times what chance gets; others solve it (test_chaos.py, `make train`). Not an end by its
    # score: one actor of the four may be quick enough to reach it alone.
    until(lambda: (cluster.status(LEARNING)["score"] or 0) >= 150, 240, "a score of 150")
    is_stopped(cluster, job, LEARNING)


def hint(cluster, job, what):
    """A command that `cluster submit` printed, given in a shell as it stands there; its output."""
    (line,) = re.findall(rf"^  {what} +(.+)$", output(job), re.M)
    done = cluster.here("/bin/sh", "-c", line)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_stopped(cluster, job, run):
    """From outside; it saves, can go on, and its folder can be fetched."""
    hint(cluster, job, "stop it, saving")
    job[0].wait(60)
    assert f"raydqn resume {cluster.head.home_there}/raydqn/runs/{run}" in output(job)
    hint(cluster, job, "fetch its folder")
    fetched = ROOT / run
    try:
        assert (fetched / "checkpoints").is_dir()
        summary = json.loads((fetched / "summary.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    assert summary["stop_reason"] == "terminated"


def it_is_elastic(cluster, job):
    """More actors and fewer; a host is lost and comes back; no token, no answer."""
    first, second = (host.name for host in cluster.workers)

    def are_up(count, on=None):
        return acting(cluster, job, ELASTIC, count, on)

    until(are_up(2), 120, "two actors, on a cluster that was up")

    # A query to the cluster gives the status that the run wrote.
    def places(status):
        return {(part["part"], part["host"], part["pid"]) for part in parts(status)}

    def told_as_written(told):
        assert told.returncode == 0, told.stderr
        return places(json.loads(told.stdout)) == places(cluster.status(ELASTIC))

    # Not the first time, perhaps: the evaluator may come up between the two.
    def told():
        return told_as_written(cluster.raydqn(f"status {ELASTIC} --address auto --json"))

    until(told, 60, "the cluster tells what the run wrote")

    # Its numbers are where Prometheus fetches Ray's, some seconds later. Counters are there when
    # they were counted up for the first time.
    until(lambda: cluster.status(ELASTIC)["score"] is not None, 120, "an evaluation")
    later = {"ray_raydqn_dropped_total", "ray_raydqn_restarts_total"}

    def all_there():
        return (
            queried_metrics() - set(re.findall(r"^ray_raydqn_\w+", metrics(cluster), re.M)) <= later
        )

    wait_for(all_there, 60, poll_s=5.0, what="what the dashboard asks for is exported")

    # More actors, and fewer, asked for on another machine than the driver's.
    command = f"raydqn scale {ELASTIC} --address auto --actors 5"
    said = cluster.on(cluster.workers[0], command)
    assert said.stdout == "applied: actors.count 2 → 5\n", said.stderr
    until(are_up(5, {first, second}), 120, "five actors, which no host can hold alone")
    said = cluster.raydqn(f"scale {ELASTIC} --address auto --actors 6")
    assert "the cluster can never hold more than 5; nothing was changed" in said.stderr
    assert cluster.raydqn(f"scale raydqn/runs/{ELASTIC} --actors 4").returncode == 0
    until(are_up(4, {first, second}), 30, "four actors")

    # A host is cut off, and then loses its power: training goes on with the other.
    cluster.workers[1].unplug()
    until(lambda: hosts_of(cluster.status(ELASTIC), "actor-") == {first}, 120, "they are missed")
    steps = cluster.status(ELASTIC)["learner_steps"]
    cluster.workers[1].power_off()
    until(lambda: cluster.status(ELASTIC)["learner_steps"] > steps + 100, 60, "learning goes on")

    # It comes back, Ray's autoscaler takes it in again, and "auto" fills it.
    assert cluster.raydqn(f"scale {ELASTIC} --address auto --actors auto").returncode == 0
    cluster.workers[1].plug_in()
    cluster.workers[1].start()
    until(are_up(5, {first, second}), 240, "as many actors as there is room for, on both hosts")

    # A client with the token gets the same status from outside.
    client = f"ray://{cluster.head.address}:10001"

    def told_outside():
        asked = cluster.raydqn_here("status", ELASTIC, "--address", client, "--json")
        if asked.returncode and "if it is busy, try again" in asked.stderr:
            return False  # some of Ray's processes for clients never start: NOT_SERVED
        return told_as_written(asked)

    until(told_outside, 240, "the cluster tells the same outside")

    # A wrong token, and none, are refused, in one line.
    wrong = ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"})
    answers = [
        cluster.raydqn(f"status --address {cluster.head.address}:6379", **env) for env in wrong
    ]
    answers.append(cluster.raydqn_here("status", "--address", client, **wrong[0]))
    for refused in answers:
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "put its own into ~/.ray/auth_token" in refused.stderr

    assert ELASTIC in hint(cluster, job, "see how it goes")
    is_stopped(cluster, job, ELASTIC)

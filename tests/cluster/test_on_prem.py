"""`ray up` of on-prem.yaml over real SSH onto three hosts, and a run on them, from outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from program_helpers import wait_for
from test_grafana import asked_for
from three_hosts import ROOT

RUN = "cartpole-test"
KEYS = (
    *("--actors.count", "2", "--stop.score", "none", "--stop.env-steps", "none"),
    *("--checkpoint.every-s", "10", "--evaluation.every-learner-steps", "500"),
)


def until(look, timeout_s, what):
    """Wait until `look()` is true, and return it."""
    return wait_for(look, timeout_s, poll_s=0.5, what=what)


@pytest.fixture(scope="module")
def job(cluster):
    """A run that was submitted from outside, and goes on."""
    log = (cluster.folder / "submit.log").open("w+")
    command = [sys.executable, "-m", "deploy", "cluster", "submit", str(cluster.file), "cartpole"]
    process = subprocess.Popen(
        [*command, "--name", RUN, *KEYS],
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
    return {part["host"] for part in parts(status, title) if part["state"] == "up"}


def output(job):
    job[1].flush()
    return (job[1].seek(0), job[1].read())[1]


@pytest.mark.timeout(900)
def test_a_cluster_comes_up_trains_loses_a_host_gets_it_back_and_goes(cluster, job):
    head, first, second = (host.name for host in cluster.hosts.all)

    def acting(count, on=None):
        """So many actors are up, all of them on these hosts, some on each."""

        def look():
            assert job[0].poll() is None, output(job)
            status = cluster.status(RUN)
            up = [part for part in parts(status, "actor-") if part["state"] == "up"]
            hosts = hosts_of(status, "actor-")
            fits = hosts == on if on is not None else hosts <= {first, second}
            return status if len(up) == count and fits else None

        return look

    # The learner and the shard on the head, actors on the others, as soon as one of them is there.
    status = until(acting(2), 300, "two actors")
    assert hosts_of(status, "learner") == hosts_of(status, "shard-") == {head}

    # Whoever asks the cluster is told the same as the run wrote.
    told = cluster.raydqn(f"status {RUN} --address auto --json")
    assert told.returncode == 0, told.stderr
    places = {(part["part"], part["host"], part["pid"]) for part in parts(json.loads(told.stdout))}
    assert places == {(part["part"], part["host"], part["pid"]) for part in parts(status)}

    # It trains.
    until(lambda: (cluster.status(RUN)["score"] or 0) >= 475, 240, "a score of 475")

    # Its numbers are where Prometheus fetches Ray's.
    missing = asked_for() - set(re.findall(r"^ray_raydqn_\w+", metrics(cluster), re.M))
    # Counters are there when they were counted up for the first time.
    assert missing <= {"ray_raydqn_dropped_total", "ray_raydqn_restarts_total"}

    # More actors, and fewer, asked for on another machine than the driver's.
    said = cluster.on(cluster.workers[0], f"python -m deploy scale {RUN} --address auto --actors 5")
    assert said.stdout == "applied: actors.count 2 → 5\n", said.stderr
    until(acting(5, {first, second}), 120, "five actors, which no host can hold alone")
    said = cluster.raydqn(f"scale {RUN} --address auto --actors 6")
    assert "the cluster can never hold more than 5; nothing was changed" in said.stderr
    assert cluster.raydqn(f"scale raydqn/runs/{RUN} --actors 4").returncode == 0
    until(acting(4, {first, second}), 30, "four actors")

    # A host is cut off, and then loses its power: training goes on with the other.
    cluster.workers[1].unplug()
    until(lambda: hosts_of(cluster.status(RUN), "actor-") == {first}, 120, "its actors are missed")
    steps = cluster.status(RUN)["learner_steps"]
    cluster.workers[1].power_off()
    until(lambda: cluster.status(RUN)["learner_steps"] > steps + 300, 60, "learning goes on")

    # It comes back, and Ray's autoscaler takes it in again.
    cluster.workers[1].plug_in()
    cluster.workers[1].start()
    until(acting(4, {first, second}), 240, "actors on the host that came back")

    # A wrong token, and none, are refused, in one line.
    for env in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = cluster.raydqn(f"status --address {cluster.head.address}:6379", **env)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "put its own into ~/.ray/auth_token" in refused.stderr

    # Stopped from outside, it saves.
    cluster.on(cluster.head, f"ray job stop --address http://127.0.0.1:8265 {RUN}")
    job[0].wait(60)
    summary = json.loads(cluster.run_file(RUN, "summary.json").read_text(encoding="utf-8"))
    assert summary["stop_reason"] == "terminated"
    assert f"raydqn resume /root/raydqn/runs/{RUN}" in output(job)

    # Nothing is left.
    down = cluster.ray("down", "--yes", str(cluster.file))
    assert down.returncode == 0, down.stderr
    until(lambda: not cluster.left(), 180, f"nothing left: {cluster.left()}")

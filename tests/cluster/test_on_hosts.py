"""A cluster that is brought up for real: on three hosts, over SSH."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from support.grafana import queried_metrics
from support.paths import ROOT
from support.program import wait_for

RUN = "cartpole-test"
KEYS = (
    *("--actors.count", "4", "--env.id", "own_envs:Own-v0"),
    *("--actors.envs", "8", "--actors.collect-steps", "8", "--actors.chunk-steps", "8"),
    *("--learner.batch-size", "128", "--learner.warmup-transitions", "500"),
    *("--network.hidden", "64", "64", "--evaluation.every-learner-steps", "50"),
    *("--evaluation.episodes", "10", "--evaluation.envs", "10"),
    *("--checkpoint.every-s", "10", "--stop.score", "none", "--stop.env-steps", "none"),
)
METRICS = """
import ray, urllib.request
ray.init("auto", logging_level="error")
for node in ray.nodes():
    url = "http://%s:%d/metrics" % (node["NodeManagerAddress"], node["MetricsExportPort"])
    print(urllib.request.urlopen(url).read().decode())
"""


def until(look, timeout_s, what):
    """Wait until `look()` is true, and return it."""
    return wait_for(look, timeout_s, poll_s=0.5, what=what)


def submit_command(cluster):
    command = [sys.executable, "-m", "deploy", "cluster", "submit", str(cluster.file), "cartpole"]
    return [*command, "--name", RUN, *KEYS]


@contextmanager
def submitted(cluster):
    """The run, submitted from outside: the command that follows it, and its output."""
    log = (cluster.folder / f"{RUN}.log").open("w+")
    process = subprocess.Popen(
        submit_command(cluster),
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


def output(job):
    job[1].flush()
    return (job[1].seek(0), job[1].read())[1]


def hint(cluster, job, what):
    """A command that `cluster submit` printed, given in a shell as it stands there; its output."""
    (line,) = re.findall(rf"^  {what} +(.+)$", output(job), re.M)
    done = cluster.here("/bin/sh", "-c", line)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def places(status):
    return {(part["part"], part["host"], part["pid"]) for part in parts(status)}


def acting(cluster, job, count, on):
    """A look whether so many actors are ready, on exactly these hosts."""

    def look():
        assert job[0].poll() is None, output(job)
        status = cluster.status(RUN)
        ready = [part for part in parts(status, "actor-") if part["state"] == "ready"]
        return status if len(ready) == count and hosts_of(status, "actor-") == on else None

    return look


@pytest.mark.timeout(900)
def test_a_cluster_starts_trains_loses_a_host_regains_it_and_ends(cluster):
    with submitted(cluster) as job:
        it_trains(cluster, job)
        a_second_submit_leaves_the_cluster_as_it_is(cluster)
        it_is_observed(cluster, job)
        it_is_scaled(cluster, job)
        it_loses_a_host_and_regains_it(cluster, job)
        it_is_stopped(cluster, job)

    # Nothing is left.
    down = cluster.ray("down", "--yes", str(cluster.file))
    assert down.returncode == 0, down.stderr
    until(lambda: not cluster.left(), 180, lambda: f"nothing left: {cluster.left()}")


def it_trains(cluster, job):
    """Learner and shard on the head, actors on both of the others: no host could hold all four.

    The environment is CartPole, by a module that only the user's machine has.
    """
    workers = {host.name for host in cluster.workers}
    status = until(acting(cluster, job, 4, workers), 300, lambda: f"four actors: {output(job)}")
    assert hosts_of(status, "learner") == hosts_of(status, "shard-") == {cluster.head.name}
    # Six times what chance gets; others solve it (test_chaos.py, `make train`). The evaluator first
    # starts, while nothing else needs the cores: otherwise learning would get far ahead of it.
    until(lambda: cluster.status(RUN)["score"] is not None, 120, "a first evaluation")
    with cluster.at_full_speed():
        until(lambda: (cluster.status(RUN)["score"] or 0) >= 120, 240, "a score of 120")


def a_second_submit_leaves_the_cluster_as_it_is(cluster):
    """The cluster is not started again, which would end the run; a name is given once."""
    again = cluster.here(*submit_command(cluster))
    assert again.returncode == 2, again.stdout + again.stderr
    assert "the cluster is up and used as it is" in again.stdout
    assert "the cluster has a job of that name already" in again.stderr


def it_is_observed(cluster, job):
    """By a query on the head, and by the metrics that the nodes export."""
    assert RUN in hint(cluster, job, "show its status")
    # A counter is exported once it has counted.
    counters = ("dropped", "restarts", "checkpoints_failed", "lost_with_nodes")
    later = {f"ray_raydqn_{counter}_total" for counter in counters}

    def all_there():
        return (
            queried_metrics() - set(re.findall(r"^ray_raydqn_\w+", metrics(cluster), re.M)) <= later
        )

    wait_for(all_there, 60, poll_s=5.0, what="each metric that the dashboard queries is exported")


def it_is_scaled(cluster, job):
    """More actors, asked for on a worker; fewer, asked for by the run's folder on the head."""
    workers = {host.name for host in cluster.workers}
    said = cluster.on(cluster.workers[0], f"raydqn scale {RUN} --address auto --actors 5")
    assert said.stdout == "applied: actors.count 4 → 5\n", said.stderr
    until(acting(cluster, job, 5, workers), 120, "five actors")
    said = cluster.raydqn(f"scale {RUN} --address auto --actors 6")
    assert "the cluster can never hold more than 5; nothing was changed" in said.stderr
    assert cluster.raydqn(f"scale raydqn/runs/{RUN} --actors 4").returncode == 0
    until(acting(cluster, job, 4, workers), 30, "four actors")


def it_loses_a_host_and_regains_it(cluster, job):
    """A host is cut off, and then loses its power: training continues with the other."""
    first, second = (host.name for host in cluster.workers)
    cluster.workers[1].unplug()
    without_its_token_nothing_is_told(cluster)  # meanwhile
    until(lambda: hosts_of(cluster.status(RUN), "actor-") == {first}, 120, "its actors are missed")
    steps = cluster.status(RUN)["learner_steps"]
    cluster.workers[1].power_off()
    until(lambda: cluster.status(RUN)["learner_steps"] > steps + 80, 60, "learning continues")

    # It is back, Ray's autoscaler takes it in again, and "auto" fills it.
    assert cluster.raydqn(f"scale {RUN} --address auto --actors auto").returncode == 0
    cluster.workers[1].plug_in()
    cluster.workers[1].start()
    a_client_with_the_token_is_told(cluster)  # meanwhile
    until(acting(cluster, job, 5, {first, second}), 240, "all actors that both hosts can hold")


def without_its_token_nothing_is_told(cluster):
    """A wrong token, and none, are refused, in one line."""
    wrong = ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"})
    answers = [
        cluster.raydqn(f"status --address {cluster.head.address}:6379", **env) for env in wrong
    ]
    client = f"ray://{cluster.head.address}:10001"
    answers.append(cluster.raydqn_here("status", "--address", client, **wrong[0]))
    for refused in answers:
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "put its own into ~/.ray/auth_token" in refused.stderr


def a_client_with_the_token_is_told(cluster):
    """Outside the cluster, the same status that the run wrote."""
    client = f"ray://{cluster.head.address}:10001"

    def told_outside():
        asked = cluster.raydqn_here("status", RUN, "--address", client, "--json")
        if asked.returncode and "if it is busy, try again" in asked.stderr:
            return False  # some of Ray's processes for clients never start: NOT_SERVED
        assert asked.returncode == 0, asked.stderr
        # Not the first time, perhaps: a part may start between the two.
        return places(json.loads(asked.stdout)) == places(cluster.status(RUN))

    until(told_outside, 240, "the cluster tells the same outside")


def it_is_stopped(cluster, job):
    """From outside; it saves, can be resumed, and its folder can be fetched."""
    hint(cluster, job, "save and stop it")
    job[0].wait(60)
    assert f"raydqn resume {cluster.head.home_there}/raydqn/runs/{RUN}" in output(job)
    hint(cluster, job, "copy its folder")
    fetched = ROOT / RUN
    try:
        assert (fetched / "checkpoints").is_dir()
        summary = json.loads((fetched / "summary.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    assert summary["stop_reason"] == "terminated"

"""Back-pressure from end to end: a part that stands still, in real processes that are stopped."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress

import psutil

from support.program import (
    TINY_OPTIONS,
    descendants,
    interrupt,
    learner_steps_in,
    remotes_named,
    reports_in,
    running,
    wait_for,
)

OPTIONS = (*TINY_OPTIONS, "--stop.score", "none", "--actors.count", "2", "--replay.shards", "2")
SETTLE_S, WATCH_S = 2.0, 4.0
NOISE_BYTES = 4 << 20  # what a process may claim for whatever else it does


@contextmanager
def training(tmp_path):
    """A run on Ray that has come into its stride, and its folder."""
    run = tmp_path / "run"
    with running("train", "cartpole", "--run-dir", str(run), *OPTIONS) as process:
        # The evaluator is the last to start: once it has reported, every part has started.
        wait_for(lambda: reports_in(run) and newest(run, "score") is not None)
        yield process, run
        interrupt(process)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


@contextmanager
def stopped(process, name):
    """One remote stands still, without being dead."""
    (remote,) = remotes_named(process, name)
    remote.suspend()
    try:
        yield
    finally:
        remote.resume()


RAYS_HELPERS = ("ray/dashboard/", "ray/_private/", "ray/autoscaler/")
"""They import what they need when they like, and nothing of a run goes through them."""


def own_bytes(process) -> dict[str, int]:
    """Memory that belongs to each process alone, by what it was started with."""
    found = {}
    for one in [psutil.Process(process.pid), *descendants(process)]:
        with suppress(psutil.Error):
            command = " ".join(one.cmdline())[:200]
            if not any(helper in command for helper in RAYS_HELPERS):
                found[f"{one.pid} {command}"] = one.memory_full_info().uss
    return found


def newest(run, key):
    return reports_in(run)[-1][key]


def test_a_part_that_stands_still_neither_starves_the_others_nor_makes_memory_grow(tmp_path):
    with training(tmp_path) as (process, run):
        # One actor of two: the other goes on acting, and the learner learning.
        with stopped(process, "actor-1-0"):
            time.sleep(SETTLE_S)
            env_steps, steps = newest(run, "env_steps"), newest(run, "learner_steps")
            wait_for(lambda: newest(run, "learner_steps") > steps + 200)
            assert newest(run, "env_steps") > env_steps
            assert newest(run, "restarts") == 0
        # The learner: acting pauses, and nothing piles up anywhere.
        with stopped(process, "learner"):
            time.sleep(SETTLE_S)
            env_steps, before = newest(run, "env_steps"), own_bytes(process)
            time.sleep(WATCH_S)
            after = own_bytes(process)
            assert newest(run, "env_steps") == env_steps, "actors ran away from the learner"
            assert newest(run, "limiter").startswith("actors wait for learner")
            grown = {name: after[name] - before[name] for name in before if name in after}
            # Driver, raylet, control store; learner, holder of the weights, evaluator; two of each.
            assert len(grown) >= 10, grown
            assert max(grown.values()) < NOISE_BYTES, grown
        steps = learner_steps_in(run)
        wait_for(lambda: learner_steps_in(run) > steps + 100)

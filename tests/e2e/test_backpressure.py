"""Back-pressure from end to end: a part that stands still, in real processes that are stopped."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager, suppress

import psutil
import pytest

from support.program import (
    CALM,
    TINY_OPTIONS,
    assert_all_gone,
    descendants,
    interrupt,
    learner_steps_in,
    remotes_named,
    reports_in,
    running,
    wait_for,
)

OPTIONS = (
    *(*TINY_OPTIONS, *CALM, "--actors.count", "2", "--replay.shards", "2"),
    *("--evaluation.every-learner-steps", "50"),
    *("--evaluation.episodes", "1", "--evaluation.envs", "1"),
    *("--checkpoint.every-s", "none"),  # however long all this takes
)
SETTLE_S, WATCH_S, WINDOWS = 2.0, 2.0, 6
NOISE_BYTES = 1 << 20
"""Growth of a process within `WATCH_S` that is no queue's: what it imports, caches or collects."""


@contextmanager
def stopped(process, name):
    """One remote stands still, without being dead."""
    (remote,) = remotes_named(process, name)
    remote.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
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


def piles_up(process) -> dict[str, list[int]]:
    """Growth of the processes that grow in every window; empty as soon as there is none.

    A queue that nothing takes from grows in each; what a process does once, it does in one.
    """
    before, grown = own_bytes(process), {}
    for _ in range(WINDOWS):
        time.sleep(WATCH_S)
        after = own_bytes(process)
        windows = {name: after[name] - before[name] for name in before if name in after}
        # Driver, raylet, control store; learner, weight store, evaluator; two of each.
        assert len(windows) >= 10, windows
        grown = {
            name: [*grown.get(name, []), size]
            for name, size in windows.items()
            if size > NOISE_BYTES and (not grown or name in grown)
        }
        if not grown:
            break
        before = after
    return grown


def newest(run, key):
    return reports_in(run)[-1][key]


def test_a_stopped_part_neither_starves_the_others_nor_grows_memory_nor_holds_up_ctrl_c(tmp_path):
    run = tmp_path / "run"
    with running("train", "cartpole", "--run-dir", str(run), *OPTIONS) as process:
        # The evaluator is the last to start: once it has reported, every part has started.
        wait_for(lambda: reports_in(run) and newest(run, "score") is not None)
        # One actor of two: the other goes on acting, and the learner learning.
        with stopped(process, "actor-1-0"):
            time.sleep(SETTLE_S)
            env_steps, steps = newest(run, "env_steps"), newest(run, "learner_steps")
            # More than the limiter lets it take from what is there already.
            wait_for(lambda: newest(run, "learner_steps") > steps + 60)
            assert newest(run, "env_steps") > env_steps
            assert newest(run, "restarts") == 0
        # The learner: acting pauses, and nothing piles up anywhere.
        with stopped(process, "learner"):
            wait_for(lambda: newest(run, "limiter").startswith("actors wait for learner"))
            time.sleep(SETTLE_S)
            env_steps = newest(run, "env_steps")
            assert piles_up(process) == {}
            assert newest(run, "env_steps") == env_steps, "actors ran away from the learner"
            assert newest(run, "limiter").startswith("actors wait for learner")
        steps = learner_steps_in(run)
        wait_for(lambda: learner_steps_in(run) > steps + 40)
        # The first Ctrl-C waits for the learner's call, which does not end; the second does not.
        with stopped(process, "learner"):
            time.sleep(0.5)  # for a call to begin
            children = descendants(process)
            interrupt(process)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            interrupt(process)
            _, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert err.strip() == "raydqn: stopped at once; nothing to resume"
        assert_all_gone(children)

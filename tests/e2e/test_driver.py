"""The driver dies, alone or with its machine: the run continues from its checkpoints."""

from __future__ import annotations

import shutil

from common.checkpoint import CheckpointStore, read_verified
from common.storage import open_storage
from support.object_store import object_store
from support.program import (
    CALM,
    SHORT_RUN_S,
    assert_all_gone,
    command_of,
    descendants,
    learner_steps_in,
    raydqn,
    reports_in,
    running,
    summary_of,
    wait_for,
)
from support.reliability import INLINE, ON_RAY, store_in

HOLDING = """
# Where the driver imports it: the third checkpoint is begun, and its last files do not come.
import pathlib, time
from common.storage import LocalStorage

write = LocalStorage.write

def held(self, name, data):
    if name.startswith("000003-") and name.endswith("learner.safetensors"):
        pathlib.Path({reached!r}).touch()
        time.sleep(1e6)
    write(self, name, data)

LocalStorage.write = held
"""
ENVIRONMENT = """
from gymnasium.envs.registration import register

register("Held-v0", entry_point="deploy.bench.sleep_env:Sleep", max_episode_steps=500)
"""


def test_the_driver_is_killed_in_the_middle_of_a_checkpoint_and_the_run_resumes(tmp_path):
    run, reached = tmp_path / "run", tmp_path / "reached"
    module = tmp_path / "held_env.py"
    module.write_text(HOLDING.format(reached=str(reached)) + ENVIRONMENT)
    arguments = (
        *("train", *ON_RAY, *CALM, "--env.id", "held_env:Held-v0", "--run-dir", str(run)),
        *("--replay.capacity", "2000"),  # that there are segments soon
    )
    with running(*arguments, pythonpath=tmp_path) as process:
        wait_for(reached.exists)
        processes = descendants(process)
        helpers = [p for p in processes if "".join(command_of(p)[:1]).endswith("Agent")]
        assert len(helpers) <= 2
        process.kill()
        process.wait()
        # None outlives its driver. (Two helpers of Ray's own take up to a minute to see it.)
        assert_all_gone([p for p in processes if p not in helpers])
    store = store_in(run)
    *_, newest = store.names()
    assert newest.startswith("000002-")
    half = [path for path in store.storage.sizes() if path.startswith("000003-")]
    assert {path.rpartition("/")[2] for path in half} == {"shard-0.rdqn", "shard-1.rdqn"}
    saved = store.newest()
    shared = {path for path in saved.files if path.startswith("frames/")}
    assert shared, "segments are written once for all checkpoints"
    # On a slow machine the third checkpoint may have had none of its own to write.
    assert shared <= {path for path in store.storage.sizes() if path.startswith("frames/")}
    module.write_text(ENVIRONMENT)
    steps, held = saved.state["learner"]["learner_steps"], saved.state["limiter"]["inserted"]
    before = len(reports_in(run))
    # The checkpoint before is of a second earlier, at tens of learner steps a second.
    assert learner_steps_in(run) - steps < 1_000
    with running(
        *("resume", str(run), "--json", "--stop.learner-steps", str(steps + 100)),
        *("--replay.shards", "3", "--actors.count", "1"),
        pythonpath=tmp_path,
    ) as process:
        out, err = process.communicate(timeout=SHORT_RUN_S)
        assert process.returncode == 0, err
    assert summary_of(out)["learner_steps"] >= steps + 100
    sizes = [line["replay_size"] for line in reports_in(run)[before:]]
    first = next(size for size in sizes if size is not None)
    assert first >= min(held, 1_998), "the memory is there from the beginning"
    for name in store.names():
        files = store.load(name).files
        for path in files:
            read_verified(store.storage, path, files)
    assert store.names()[-1] > "000003-", "no number is given twice"
    assert not any(path in store.storage.sizes() for path in half), "what was left over is gone"


def test_a_run_resumes_from_an_object_store_when_its_machine_is_gone(tmp_path):
    """In one process; tests/ray/test_replay_ray.py has the shards of an object store on Ray."""
    with object_store("runs") as bucket:
        url = f"{bucket}/of-mine"
        store = CheckpointStore(open_storage(f"{url}/run"), 3)
        options = ("--run-dir", str(tmp_path / "run"), "--checkpoint.storage", url)
        endless = ("--stop.learner-steps", "none")
        with running("train", *INLINE, *CALM, *options, *endless) as process:
            wait_for(lambda: len(store.names()) >= 2)
            process.kill()
        saved = store.newest()
        assert {path.rpartition("/")[2] for path in saved.files} >= {"shard-0.rdqn", "shard-1.rdqn"}
        for path in saved.files:
            read_verified(store.storage, path, saved.files)
        shutil.rmtree(tmp_path / "run")  # with the machine that it was on
        steps = saved.state["learner"]["learner_steps"]
        code, out, err = raydqn(
            *("resume", f"{url}/run", "--json", "--stop.learner-steps", str(steps + 50)),
            *("--replay.shards", "3", "--inline"),
            cwd=tmp_path,
        )
        assert code == 0, err
        assert summary_of(out)["learner_steps"] == steps + 50
        sizes = [line["replay_size"] for line in reports_in(tmp_path / "runs" / "run")]
        held = min(saved.state["limiter"]["inserted"], 1_998)
        assert sizes[-1] >= held, "dealt to three"  # the first ones are of the lost machine
        assert (tmp_path / "runs" / "run" / "lives").read_text() == "2", (
            "not the first attempt again"
        )
        newest = store.newest()
        assert newest.state["learner"]["learner_steps"] == steps + 50
        assert newest.state["shards"] == 3
        for path in newest.files:
            read_verified(store.storage, path, newest.files)

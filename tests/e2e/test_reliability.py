"""Nothing is lost: each promise of docs/reliability.md, with the real thing broken for it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.checkpoint import CheckpointStore, read_verified
from common.storage import open_storage
from support.program import (
    CALM,
    ROOT,
    SHORT_RUN_S,
    TINY_OPTIONS,
    assert_all_gone,
    descendants,
    learner_steps_in,
    raydqn,
    raydqn_here,
    remotes_named,
    reports_in,
    running,
    summary_of,
    wait_for,
)

NO_GOAL = ("--stop.score", "none")
INLINE = (
    *("cartpole", "--inline", "--json", *TINY_OPTIONS, *NO_GOAL, "--replay.shards", "2"),
    *("--checkpoint.every-learner-steps", "60", "--stop.learner-steps", "400"),
    *("--evaluation.every-learner-steps", "200"),
)
ON_RAY = (
    *("cartpole", "--json", *TINY_OPTIONS, *NO_GOAL),
    *("--replay.shards", "2", "--replay.capacity", "20000", "--checkpoint.every-s", "1"),
    *("--evaluation.every-learner-steps", "1000000"),
)
RECOVERY_S = 30.0


def store_in(run: Path) -> CheckpointStore:
    return CheckpointStore(open_storage(str(run / "checkpoints")), 3)


def contents_of(checkpoint) -> dict[str, str]:
    """Check sums of everything but the state, which says how long things took."""
    name = checkpoint.name
    return {
        path.removeprefix(f"{name}/"): entry["sha256"]
        for path, entry in checkpoint.files.items()
        if not path.endswith("state.json")
    }


# --- one process ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    """A run that nobody disturbed: its summary and its last checkpoint."""
    run = tmp_path_factory.mktemp("never") / "run"
    code, out, err = raydqn_here("train", *INLINE, "--run-dir", str(run))
    assert code == 0, err
    return summary_of(out), store_in(run).newest()


def test_a_killed_run_goes_on_bit_for_bit_as_if_it_had_not_been(tmp_path, never_killed):
    run, command = tmp_path / "run", ("train", *INLINE, "--run-dir", str(tmp_path / "run"))
    for at in (70, 200, 330):
        with running(*command) as process:
            wait_for(lambda: learner_steps_in(run) >= at or process.poll() is not None)  # noqa: B023
            process.kill()  # no handler runs, nothing is flushed
        assert store_in(run).names()
        command = ("resume", str(run), "--inline", "--json")
    code, out, err = raydqn(*command)
    assert code == 0, err
    summary, last = summary_of(out), store_in(run).newest()
    wanted, wanted_last = never_killed
    for key in ("weights_sha256", "learner_steps", "env_steps", "transitions", "episodes", "score"):
        assert summary[key] == wanted[key], key
    assert contents_of(last) == contents_of(wanted_last)  # the replay memory too, and Adam
    assert last.state["limiter"] == wanted_last.state["limiter"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_works(tmp_path):
    run = tmp_path / "run"
    assert raydqn_here("train", *INLINE, "--run-dir", str(run))[0] == 0
    *_, before, newest = store_in(run).names()
    path = run / "checkpoints" / newest / "shard-1.rdqn"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    more = ("--stop.learner-steps", "420", "--inline")
    code, _, err = raydqn_here("resume", str(run), *more)
    assert code == 2
    assert len(err.strip().splitlines()[-1:]) == 1
    assert f"{newest}/shard-1.rdqn: damaged" in err
    assert f"--checkpoint {before}" in err
    path.write_bytes(data[:-1])  # cut off
    assert "cut off" in raydqn_here("resume", str(run), *more)[2]
    code, _, err = raydqn_here("resume", str(run), "--checkpoint", before, *more)
    assert code == 0, err
    assert store_in(run).newest().state["learner"]["learner_steps"] == 420


def in_a_small_place(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a file system of 120 kB of its own mounted on $PLACE."""
    place = tmp_path / "place"
    place.mkdir()
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"]).returncode:
        pytest.skip("needs mount namespaces (unshare)")
    return subprocess.run(
        [*enter, f'mount -t tmpfs -o size=120k tmpfs "$PLACE"; {script}'],
        env={"PLACE": str(place), "RUN": str(tmp_path / "run"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


CHECK = (
    "import sys; from common.checkpoint import *; from common.storage import *; "
    "s = CheckpointStore(open_storage(sys.argv[1]), 3); "
    "print([len([read_verified(s.storage, f, s.load(n).files) for f in s.load(n).files])"
    " for n in s.names()])"
)
"""Verifies every file of every checkpoint."""


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_full_disk_costs_no_checkpoint_that_is_there(tmp_path, on_failure):
    options = " ".join(f"'{option}'" for option in (*INLINE, "--checkpoint.on-failure", on_failure))
    done = in_a_small_place(
        f'{sys.executable} -m deploy train {options} --checkpoint.storage "$PLACE" '
        f'--run-dir "$RUN"; echo code $?; {sys.executable} -c "{CHECK}" "$PLACE/run"',
        tmp_path,
    )
    said = done.stdout + done.stderr
    assert "checkpoint could not be written: [Errno 28] No space left on device" in said
    lines = done.stdout.strip().splitlines()
    assert len(json.loads(lines[-1])) >= 1, said  # whole ones are left, all verified
    assert "code 1" in lines  # the last one could not be written either
    steps = reports_in(tmp_path / "run")[-1]["learner_steps"]
    assert steps == 400 if on_failure == "continue" else steps < 400


def test_a_full_disk_on_ray_costs_no_checkpoint_that_is_there(tmp_path):
    more = ("--checkpoint.every-s", "0.5", "--stop.learner-steps", "200")
    options = " ".join(f"'{option}'" for option in (*ON_RAY, *CALM, *more))
    done = in_a_small_place(
        f'{sys.executable} -m deploy train {options} --checkpoint.storage "$PLACE" '
        f'--run-dir "$RUN"; echo code $?; {sys.executable} -c "{CHECK}" "$PLACE/run"',
        tmp_path,
    )
    said = done.stdout + done.stderr
    assert "checkpoint could not be written: [Errno 28] No space left on device" in said, said
    lines = done.stdout.strip().splitlines()
    assert len(json.loads(lines[-1])) >= 1, said  # whole ones are left, all verified
    assert "code 1" in lines  # the last one could not be written either
    assert reports_in(tmp_path / "run")[-1]["learner_steps"] == 200


def test_a_place_that_cannot_be_written_does_not_end_the_run_before_its_time(tmp_path):
    options = " ".join(f"'{option}'" for option in INLINE)
    done = in_a_small_place(
        'mount -o remount,ro "$PLACE"; '
        f'{sys.executable} -m deploy train {options} --checkpoint.storage "$PLACE" '
        '--run-dir "$RUN"; echo code $?',
        tmp_path,
    )
    assert "Read-only file system" in done.stdout + done.stderr
    assert "going on" in done.stdout + done.stderr
    assert reports_in(tmp_path / "run")[-1]["learner_steps"] == 400


@pytest.mark.parametrize(("shards", "capacity"), [("1", "2000"), ("3", "2000"), ("2", "600")])
def test_a_run_goes_on_with_other_shards_actors_and_ratio(tmp_path, shards, capacity):
    run = tmp_path / "run"
    assert raydqn_here("train", *INLINE, "--run-dir", str(run))[0] == 0
    saved, before = store_in(run).newest().state, reports_in(run)
    code, out, err = raydqn_here(
        *("resume", str(run), "--inline", "--json", "--stop.learner-steps", "430"),
        *("--replay.shards", shards, "--replay.capacity", capacity, "--actors.count", "3"),
        *("--learner.samples-per-insert", "2", "--replay.compression", "lz4"),
    )
    assert code == 0, err
    assert summary_of(out)["learner_steps"] == 430
    sizes = [line["replay_size"] for line in reports_in(run)[len(before) :] if line["replay_size"]]
    assert sizes[0] >= min(before[-1]["replay_size"], int(capacity) // int(shards) * int(shards))
    assert summary_of(out)["env_steps"] > saved["counters"]["env_steps"]


# --- many processes ------------------------------------------------------------------------------


PARTS = {"actor-0", "actor-1", "shard-0", "shard-1", "learner", "variables"}


def epsilons_in(run: Path, restarts: int) -> set[float]:
    """Of all episodes that ended while so many parts had been replaced."""
    reports = [report for report in reports_in(run) if report["restarts"] == restarts]
    return {epsilon for report in reports for *_, epsilon in report["episodes"]}


def restarts_in(run: Path) -> int:
    return reports_in(run)[-1]["restarts"]


def hit(process, run: Path, name: str, number: int) -> float:
    """Send a part a signal; seconds until it is replaced and learning goes on."""
    before = restarts_in(run)
    (remote,) = remotes_named(process, name)
    begin = time.monotonic()
    remote.send_signal(number)
    wait_for(lambda: restarts_in(run) > before, RECOVERY_S)
    steps = learner_steps_in(run)
    wait_for(lambda: learner_steps_in(run) >= steps + 20, RECOVERY_S)
    return time.monotonic() - begin


def test_every_part_that_dies_or_hangs_is_replaced_and_nobody_is_left_behind(tmp_path):
    run = tmp_path / "run"
    options = ("--actors.count", "2", "--supervision.hung-after-s", "3", "--run-dir", str(run))
    with running("train", *ON_RAY, *CALM, *options) as process:
        wait_for(lambda: len(store_in(run).names()) >= 2 and learner_steps_in(run) > 100)
        wait_for(lambda: len(epsilons_in(run, restarts=0)) == 8)
        took = {}
        for name, number in (
            ("actor-0", signal.SIGKILL),
            ("shard-1", signal.SIGKILL),
            ("learner", signal.SIGKILL),
            ("variables", signal.SIGKILL),
            ("shard-0", signal.SIGSTOP),
            ("learner", signal.SIGSTOP),
            ("actor-1", signal.SIGSTOP),
        ):
            saved = store_in(run).newest().state["learner"]["learner_steps"]
            version = reports_in(run)[-1]["oldest_acting_version"]
            took[name, number.name] = round(hit(process, run, name, number), 1)
            assert learner_steps_in(run) >= saved, name  # from its newest checkpoint, or later
            acting = wait_for(lambda: reports_in(run)[-1]["oldest_acting_version"])
            assert acting >= version, name
            if name == "actor-0":  # two actors of four copies: the same ladder of eight
                wait_for(lambda: epsilons_in(run, restarts=1) == epsilons_in(run, restarts=0))
            if name == "variables":  # published again, and fetched, before the next part dies
                wait_for(lambda v=version: reports_in(run)[-1]["oldest_acting_version"] > v)
            assert reports_in(run)[-1]["replay_size"] > 0
        # Each was replaced once, and with the next incarnation; the others went on as they were.
        assert restarts_in(run) == 7
        everybody = descendants(process)
        names = [" ".join(p.cmdline()).split(".")[0].strip() for p in everybody]
        for name in ("shard-0-1", "shard-1-1", "learner-2", "variables-1", "actor-0-1"):
            assert any(title.startswith(f"ray::{name}") for title in names), (name, names)
        process.send_signal(signal.SIGTERM)
        # docs/reliability.md promises 15 s, of a machine that does not run other tests meanwhile.
        out, err = process.communicate(timeout=40)
        assert process.returncode == 0, err
        assert_all_gone(everybody)
    saved = store_in(run).newest()
    assert saved.state["learner"]["learner_steps"] == summary_of(out)["learner_steps"]
    print(took)
    assert summary_of(out)["restarts"] == 7
    rows = json.loads((run / "status.json").read_text())["parts"]
    restarts = {row["part"]: row["restarts"] for row in rows}
    assert next(row["rate"] for row in rows if row["part"] == "actor-0") > 0  # of a minute ago
    assert restarts == dict.fromkeys(PARTS, 1) | {"learner": 2}
    assert {row["part"]: row["incarnation"] for row in rows} == restarts
    assert all(out.count(f"{name} was replaced") == restarts[name] for name in PARTS)
    reports = reports_in(run)
    env_steps = [report["env_steps"] for report in reports]
    assert env_steps == sorted(env_steps)
    steps = [report["learner_steps"] for report in reports]
    back = [later for earlier, later in itertools.pairwise(steps) if later < earlier]
    assert len(back) <= 2, "it fell back where the learner died, and nowhere else"
    assert 0 not in back, "to a checkpoint, not to the beginning"
    versions = [r["weights_version"] for r in reports if r["weights_version"] is not None]
    assert versions == sorted(versions), "actors never see an older one"


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


def test_the_driver_is_killed_in_the_middle_of_a_checkpoint_and_the_run_goes_on(tmp_path):
    run, reached = tmp_path / "run", tmp_path / "reached"
    module = tmp_path / "held_env.py"
    module.write_text(HOLDING.format(reached=str(reached)) + ENVIRONMENT)
    arguments = (
        *("train", *ON_RAY, *CALM, "--env.id", "held_env:Held-v0", "--run-dir", str(run)),
        *("--replay.capacity", "2000"),  # that there are segments soon
    )
    with running(*arguments, pythonpath=tmp_path) as process:
        wait_for(reached.exists)
        everybody = descendants(process)
        helpers = [p for p in everybody if "".join(p.cmdline()[:1]).endswith("Agent")]
        assert len(helpers) <= 2
        process.kill()
        process.wait()
        # None outlives its driver. (Two helpers of Ray's own take up to a minute to see it.)
        assert_all_gone([p for p in everybody if p not in helpers])
    store = store_in(run)
    *_, newest = store.names()
    assert newest.startswith("000002-")
    half = [path for path in store.storage.sizes() if path.startswith("000003-")]
    assert {path.rpartition("/")[2] for path in half} == {"shard-0.rdqn", "shard-1.rdqn"}
    saved = store.newest()
    shared = {path for path in saved.files if path.startswith("frames/")}
    assert shared, "segments are written once for all checkpoints"
    assert shared < {path for path in store.storage.sizes() if path.startswith("frames/")}
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


FRAGILE = """
import os, pathlib, time
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import register

HERE = pathlib.Path(__file__).parent

def first_time(what):
    known = (HERE / what).exists()
    (HERE / what).touch()
    return not known

class Fragile(CartPoleEnv):
    "Its 30th step takes long, its 200th ends the process, then its 200th does not end."
    steps = 0
    def step(self, action):
        self.steps += 1
        time.sleep(0.002)
        if self.steps == 30:
            time.sleep(5)
        if self.steps == 200 and first_time("died"):
            os._exit(1)
        if self.steps == 200 and first_time("hung"):
            time.sleep(600)
        if (HERE / "hopeless").exists():
            raise OSError("the simulator is gone")
        return super().step(action)

register("Fragile-v0", entry_point=Fragile, max_episode_steps=50)
"""


def test_an_environment_may_be_slow_and_is_replaced_when_it_dies_or_hangs_until_it_is_hopeless(
    tmp_path,
):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    run = tmp_path / "run"
    arguments = (
        *("train", "cartpole", *TINY_OPTIONS, *NO_GOAL, "--env.id", "fragile:Fragile-v0"),
        *("--actors.envs", "1", "--evaluation.every-learner-steps", "1000000"),
        *("--supervision.hung-after-s", "2", "--supervision.call-timeout-s", "8"),
        *("--run-dir", str(run)),
    )
    with running(*arguments, cwd=tmp_path) as process:
        # Slow: its process shows signs of life.
        wait_for(lambda: reports_in(run) and reports_in(run)[-1]["env_steps"] > 60)
        assert restarts_in(run) == 0
        wait_for(lambda: restarts_in(run) == 2)
        before = learner_steps_in(run)
        wait_for(lambda: learner_steps_in(run) > before + 50)
        (tmp_path / "hopeless").touch()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    died, hung, *hopeless = re.findall(r"actor-0 was replaced: (.*)", out)
    assert "actor-0 did not answer for 8 s" in hung
    assert "did not answer" not in died
    assert len(hopeless) == 3, out
    assert "actor-0 failed 4 times in a row" in err
    assert "the simulator is gone" in err
    assert len(err.strip().splitlines()) == 1, err


# --- storage that is no disk of ours -------------------------------------------------------------


def test_a_run_goes_on_from_an_object_store_when_its_machine_is_gone(tmp_path, monkeypatch):
    moto = pytest.importorskip("moto.server", reason="needs moto (pip install 'moto[s3,server]')")
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("runs")
        url = "s3://runs/of-mine"
        store = CheckpointStore(open_storage(f"{url}/run"), 3)
        options = ("--run-dir", str(tmp_path / "run"), "--checkpoint.storage", url)
        with running("train", *ON_RAY, *CALM, *options) as process:
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
            *("--replay.shards", "3"),
            cwd=tmp_path,
        )
        assert code == 0, err
        assert summary_of(out)["learner_steps"] == steps + 50
        sizes = [line["replay_size"] for line in reports_in(tmp_path / "runs" / "run")]
        held = min(saved.state["limiter"]["inserted"], 19_998)
        assert next(size for size in sizes if size is not None) >= held, "dealt to three"
        assert (tmp_path / "runs" / "run" / "lives").read_text() == "2", "not its first life again"
        newest = store.newest()
        assert newest.state["learner"]["learner_steps"] == steps + 50
        assert newest.state["shards"] == 3
        for path in newest.files:
            read_verified(store.storage, path, newest.files)
    finally:
        server.stop()

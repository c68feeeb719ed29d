"""A run in one process, killed or changed between two attempts: nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.program import (
    contents_of,
    learner_steps_in,
    raydqn,
    raydqn_here,
    reports_in,
    running,
    summary_of,
    wait_for,
)
from support.reliability import INLINE, store_in


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run from beginning to end, trained once for this module: its folder and its summary."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    code, out, err = raydqn_here("train", *INLINE, "--run-dir", str(run))
    assert code == 0, err
    return run, summary_of(out)


@pytest.fixture
def trained(tmp_path, undisturbed):
    """A copy of that run's folder, for a test to change."""
    return Path(shutil.copytree(undisturbed[0], tmp_path / "run"))


def test_a_killed_run_resumes_bit_for_bit(tmp_path, undisturbed):
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
    wanted, wanted_last = undisturbed[1], store_in(undisturbed[0]).newest()
    for key in ("weights_sha256", "learner_steps", "env_steps", "transitions", "episodes", "score"):
        assert summary[key] == wanted[key], key
    assert contents_of(last) == contents_of(wanted_last)  # the replay memory too, and Adam
    assert last.state["limiter"] == wanted_last.state["limiter"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_works(trained):
    *_, before, newest = store_in(trained).names()
    path = trained / "checkpoints" / newest / "shard-1.rdqn"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    more = ("--stop.learner-steps", "420", "--inline")
    code, _, err = raydqn_here("resume", str(trained), *more)
    assert code == 2
    assert len(err.strip().splitlines()[-1:]) == 1
    assert f"{newest}/shard-1.rdqn: damaged" in err
    assert f"--checkpoint {before}" in err
    path.write_bytes(data[:-1])  # cut off
    assert "cut off" in raydqn_here("resume", str(trained), *more)[2]
    code, _, err = raydqn_here("resume", str(trained), "--checkpoint", before, *more)
    assert code == 0, err
    assert store_in(trained).newest().state["learner"]["learner_steps"] == 420


@pytest.mark.parametrize(("shards", "capacity"), [("1", "2000"), ("3", "2000"), ("2", "600")])
def test_a_run_resumes_with_other_shards_actors_and_ratio(trained, shards, capacity):
    run = trained
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

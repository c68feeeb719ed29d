"""The whole program on Ray: real remotes, real processes, really killed."""

from __future__ import annotations

import os
import pty
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress

import psutil
import pytest

from support.program import (
    CALM,
    ROOT,
    SHORT_RUN_S,
    TINY,
    TINY_OPTIONS,
    assert_all_gone,
    checkpoints_in,
    command_of,
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

# Programs under test bring their own Ray; none is started in this process.
BATCH = TINY["learner"]["batch_size"]


PICKY = """
import os, pathlib, gymnasium as gym, numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

class Picky(CartPoleEnv):
    "Where three copies live, in the evaluator, the process dies once. Refuses illegal actions."
    copies = steps = 0
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Picky.copies += 1
    def action_masks(self):
        return np.array([True, self.steps % 4 != 0])
    def step(self, action):
        assert self.action_masks()[action]
        self.steps += 1
        mark = pathlib.Path(os.environ["PICKY_MARK"])
        if Picky.copies == 3 and not mark.exists():
            mark.touch()
            os._exit(1)
        return super().step(action)

gym.register("Picky-v0", Picky, max_episode_steps=50)
"""


SLOW_HELPER = """
import pathlib, sys, time

mark = pathlib.Path(__file__).with_name("slow")
if any(word.endswith("dashboard/agent.py") for word in sys.orig_argv) and not mark.exists():
    mark.touch()
    time.sleep(300)  # longer than all this takes
"""
"""The first imports of Ray's helpers, from a slow disk: its raylet waits 15 s, then it aborts."""


def test_ray_is_started_once_more_and_trains_with_an_evaluator_that_is_replaced(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_HELPER)
    (tmp_path / "picky.py").write_text(PICKY)  # remotes find what lies beside the command
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--json", "--run-dir", str(run), *TINY_OPTIONS),
        *("--env.id", "picky:Picky-v0", "--env.action-mask", "method"),
        *("--stop.learner-steps", "600", "--stop.score", "none"),
        *("--actors.count", "2", "--replay.shards", "3"),
        *("--evaluation.episodes", "3", "--evaluation.envs", "3"),
        cwd=tmp_path,
        pythonpath=tmp_path,
        # A Ray of its own is started, whatever that says.
        env={"PICKY_MARK": str(tmp_path / "mark"), "RAY_ADDRESS": "203.0.113.1:6379"},
    ) as process:
        out, err = process.communicate(timeout=SHORT_RUN_S)
    assert process.returncode == 0, err
    assert (tmp_path / "slow").exists()
    assert out.count("Ray did not start within 30 s; retrying") == 1

    def left():  # of either start
        environments = [one.info["environ"] or {} for one in psutil.process_iter(["environ"])]
        return [one for one in environments if str(tmp_path) in one.get("PYTHONPATH", "")]

    wait_for(lambda: not left(), 30, what=lambda: f"no process is left: {left()}")
    summary = summary_of(out)
    assert summary["stop_reason"] == "learner_steps"
    assert summary["learner_steps"] == 600
    assert out.count("; restarted") == out.count("evaluator died: ") == 1
    assert summary["restarts"] == 1
    assert summary["score_episodes"] == 3
    up = [report["actors_up"] for report in reports_in(run)]
    assert up == sorted(up)
    assert (up[0], up[-1]) == (0, 2), "they come up one after the other, and stay"
    last = reports_in(run)[-1]
    # The learner's summaries are of all shards, and as old as its last round.
    assert 0 < last["replay_size"] + last["replay_evicted"] <= summary["transitions"]
    assert last["replay_size"] >= 300, "one of three shards alone could not hold this"
    assert last["weights_version"] == 600 // 5
    assert last["target_syncs"] == 600 // 20
    assert last["refused_priorities"] == 0
    epsilons = {epsilon for report in reports_in(run) for *_, epsilon in report["episodes"]}
    # 1 until learning starts; then two actors of four copies have a ladder of eight.
    assert len(epsilons - {1.0}) == 8
    assert checkpoints_in(run).newest().state["learner"]["learner_steps"] == 600


def test_a_run_whose_only_actor_hangs_stops_with_one_line_and_no_orphan(tmp_path):
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--run-dir", str(run), *TINY_OPTIONS),
        *(*CALM, "--learner.stall-timeout-s", "5"),
    ) as process:
        wait_for(lambda: learner_steps_in(run) > 100)
        children = descendants(process)
        (actor,) = remotes_named(process, "actor-0")
        actor.send_signal(signal.SIGSTOP)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert len(err.strip().splitlines()) == 1, err
        assert "no transition was inserted and no sample drawn for 5 s" in err
        assert "learner waits for actors for" in err
        assert "parts with unfinished calls: actor-0 for" in err
        assert "learner.stall_timeout_s=5" in err
        assert f"raydqn resume {run}" in err
        assert_all_gone(children)
    last = reports_in(run)[-1]
    assert last["limiter_waiting"] == "learner"
    assert 4 < last["limiter_waiting_s"] < 7
    saved = checkpoints_in(run).newest().state["counters"]["learner_steps"]
    assert saved == last["learner_steps"]


def test_a_run_is_changed_and_ctrl_c_in_its_terminal_saves_and_leaves_no_orphan(tmp_path):
    run = tmp_path / "run"

    def ratio_is(wanted: float, since: int = 0) -> bool:
        """Of what was done since that report; the reports tell the ratio of the whole run."""
        reports = [{"learner_steps": 0, "transitions": 0}, *reports_in(run)][since:]
        first, last = reports[0], reports[-1]
        inserted = last["transitions"] - first["transitions"]
        samples = BATCH * (last["learner_steps"] - first["learner_steps"])
        return inserted > 1_000 and samples / inserted == pytest.approx(wanted, rel=0.1)

    with in_a_terminal("train", "cartpole", "--run-dir", str(run), *TINY_OPTIONS, *CALM) as (
        process,
        terminal,
        shown,
    ):
        wait_for(lambda: learner_steps_in(run) > 100 and ratio_is(4))
        code, out, err = raydqn("set", str(run), "--learner.samples-per-insert", "8")
        assert (code, out) == (0, "applied: learner.samples_per_insert 4 → 8\n"), err
        changed = len(reports_in(run))
        wait_for(lambda: ratio_is(8, changed))
        processes = process.children(recursive=True)
        assert len(processes) > 4
        os.write(terminal, b"\x03")  # to every process in the foreground's group
        _, status = wait_for(
            lambda: waited if (waited := os.waitpid(process.pid, os.WNOHANG))[0] else None
        )
        assert os.waitstatus_to_exitcode(status) == 0, shown()
        assert_all_gone(processes)
        wait_for(lambda: f"raydqn resume {run}" in shown())
        assert "applied: learner.samples_per_insert 4 → 8" in shown()
    saved = checkpoints_in(run).newest().state
    assert saved["config"]["learner"]["samples_per_insert"] == 8.0
    steps = saved["counters"]["learner_steps"]
    code, out, err = raydqn_here(
        "resume", str(run), "--inline", "--json", "--stop.learner-steps", str(steps + 100)
    )
    assert code == 0, err
    assert summary_of(out)["learner_steps"] == steps + 100


@contextmanager
def in_a_terminal(*arguments):
    """`raydqn ARGUMENTS` in a terminal of its own: process, terminal, and what it has shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ |= {"PYTHONPATH": str(ROOT), "COLUMNS": "250"}
        os.execv(sys.executable, [sys.executable, "-m", "deploy", *arguments])
    process, written = psutil.Process(pid), []

    def read() -> None:
        # Not for the text's sake alone: an unread terminal blocks its writer.
        with suppress(OSError):
            while piece := os.read(terminal, 1 << 12):
                written.append(piece)

    threading.Thread(target=read, daemon=True).start()
    processes = [process]
    try:
        yield process, terminal, lambda: b"".join(written).decode(errors="replace")
    finally:
        with suppress(psutil.Error):
            processes += process.children(recursive=True)
        for one in processes:
            with suppress(psutil.Error):
                one.kill()


def test_a_mistake_is_one_line_on_ray_too_and_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--run-dir", str(run), "--network.kind", "nature-cnn")
    ) as process:
        _out, err = process.communicate(timeout=SHORT_RUN_S)
        assert process.returncode == 2
        assert err.startswith("raydqn: error: network.kind=nature-cnn: needs pictures")
        assert len(err.strip().splitlines()) == 1, err
        assert not run.exists()


# --- signals as shells, schedulers and terminals send them --------------------------------------


def saving(run) -> bool:
    """Whether a checkpoint is half written: its manifest comes last."""
    return any(
        not (folder / "manifest.json").exists() for folder in run.glob("checkpoints/*-step-*")
    )


def test_a_signal_to_the_whole_group_in_the_middle_of_a_save_with_a_part_that_hangs(tmp_path):
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--json", "--run-dir", str(run), *TINY_OPTIONS),
        *(*CALM, "--actors.count", "2", "--checkpoint.every-s", "0.1"),
        own_group=True,
    ) as process:
        wait_for(lambda: checkpoints_in(run).names() and learner_steps_in(run) > 100)
        processes = descendants(process)
        (hung,) = remotes_named(process, "actor-1")
        hung.send_signal(signal.SIGSTOP)
        # It reaches none of Ray's own: they would end, and what is saved then would be luck.
        assert all(os.getpgid(child.pid) != process.pid for child in processes)
        wait_for(lambda: saving(run))
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert summary_of(out)["stop_reason"] == "terminated"
        assert_all_gone(processes)
    saved = checkpoints_in(run).newest()
    assert saved.state["learner"]["learner_steps"] == summary_of(out)["learner_steps"]
    assert not saving(run)


def rays(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that belong to Ray; a command has a process of its own for its standard error, too."""
    return [one for one in processes if any("/ray/" in word for word in command_of(one))]


def test_a_signal_while_ray_starts_is_told_at_once_and_leaves_no_process_behind(tmp_path):
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--run-dir", str(run), *TINY_OPTIONS), own_group=True
    ) as process:
        started = wait_for(lambda: rays(descendants(process)))
        os.killpg(process.pid, signal.SIGINT)
        begin = time.monotonic()
        lines = iter(process.stdout.readline, "")
        told = next(line for line in lines if "while Ray starts" in line)
        told_s = time.monotonic() - begin
        assert told == "interrupted (SIGINT) while Ray starts: ending its processes …\n"
        assert told_s < 5, "within a second, where no other test takes the cores"
        os.killpg(process.pid, signal.SIGTERM)  # on it, Ray raises SystemExit
        # A start that fails is not noticed before its 30 s are over.
        out, err = process.communicate(timeout=120)
        assert "while Ray starts" not in out, "told once"
        assert process.returncode == 130
        assert err == "raydqn: stopped before the run began; nothing to resume\n"
        assert_all_gone(started)
    assert not run.exists()

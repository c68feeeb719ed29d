"""The process of a trial: its cores, its results, its ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from deploy.runtime import trial_process
from deploy.runtime.cores import own_cores
from deploy.runtime.trial_process import (
    OUTER,
    TrialCommand,
    TrialProcess,
    outer_environment,
    outer_settings,
)
from support.studies import write_run


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A trial whose process is a shell script, in place of raydqn."""
    monkeypatch.setattr(trial_process, "LOOK_EVERY_S", 0.02)
    program = "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[4]])"
    monkeypatch.setattr(trial_process, "PROGRAM", program)
    run, log = tmp_path / "run", tmp_path / "log"
    return TrialCommand("t", ("exit 0",), run, log, tmp_path / "stop", tmp_path)


def started(command, script):
    return TrialProcess(replace(command, words=(script,)))


def test_each_new_score_is_a_result(command):
    process = started(command, "exec sleep 5")
    write_run(command.run, {"env_steps": 7, "score": 2.0})
    assert process.next_result() == {
        "env_steps": 7,
        "score": 2.0,
        "wall_s": 1.0,
        "done": False,
        "outcome": "",
        "error": "",
    }
    write_run(command.run, {"env_steps": 8, "score": 2.0}, {"env_steps": 9, "score": 4.0})
    assert process.next_result()["env_steps"] == 9
    process.command.stop.touch()  # the script knows no exit code of a clean stop
    assert process.next_result()["done"]


def test_env_steps_alone_are_a_result_where_a_scheduler_asks(command):
    script = "sleep 0.3; exit 0"
    process = TrialProcess(replace(command, words=(script,), every_env_steps=10, last_env_steps=30))
    write_run(command.run, {"env_steps": 7, "score": 2.0})
    process.next_result()
    write_run(command.run, {"env_steps": 17, "score": 2.0})
    assert process.next_result()["env_steps"] == 17
    write_run(command.run, {"env_steps": 30, "score": 3.0})
    assert process.next_result()["done"]  # a scheduler must not stop what is about to end


@pytest.mark.parametrize(
    ("script", "outcome", "error"),
    [
        ("exit 0", "finished", ""),
        ("exit 75", "interrupted", ""),
        ("exit 130", "interrupted", ""),
        ("echo progress; echo 'raydqn: error: no luck'; exit 2", "failed", "no luck"),
        ("echo; echo 'KeyError: 3'; exit 1", "failed", "KeyError: 3"),
        ("exit 9", "failed", "exit code 9"),
    ],
)
def test_the_end_of_a_process_is_an_outcome(command, script, outcome, error):
    result = started(command, script).next_result()
    assert (result["done"], result["outcome"], result["error"]) == (True, outcome, error)
    assert result["env_steps"] == 0


@pytest.mark.parametrize(
    ("summary", "outcome"),
    [
        ({"stop_reason": "env_steps"}, "finished"),
        ({"stop_reason": "terminated"}, "interrupted"),
        ({"stop_reason": None}, "interrupted"),
        (["damaged"], "interrupted"),
    ],
)
def test_a_signal_after_the_end_of_a_run_interrupts_nothing(command, summary, outcome):
    command.run.mkdir()
    (command.run / "summary.json").write_text(json.dumps(summary))
    assert started(command, "exit 75").next_result()["outcome"] == outcome


def test_the_error_in_the_summary_counts_more_than_the_output(command):
    write_run(command.run, summary={"error": "the loss is NaN"})
    assert started(command, "echo x; exit 1").next_result()["error"] == "the loss is NaN"


def test_a_process_that_is_killed_says_so(command, monkeypatch):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(trial_process, "PROGRAM", program)
    result = started(command, "").next_result()
    assert (result["outcome"], result["error"]) == ("failed", "killed by SIGKILL")


def test_a_stop_waits_for_the_end(command, monkeypatch):
    program = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(0.3); open('saved', 'w').close(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); open('ready', 'w').close(); time.sleep(30)"
    )
    monkeypatch.setattr(trial_process, "PROGRAM", program)
    process = started(command, "")
    write_run(command.run, {"env_steps": 7, "score": 2.0})
    process.next_result()
    trial_process.poll_until((command.folder / "ready").exists, 10, 0.01)
    process.stop()
    assert (command.folder / "saved").exists()
    process.stop()  # again: nothing


def test_the_real_program_runs_raydqn_with_its_cores(tmp_path):
    core = min(os.sched_getaffinity(0))
    words = [sys.executable, "-P", "-c", trial_process.PROGRAM, str(os.getpid()), str(core)]
    root = str(trial_process.Path(trial_process.__file__).resolve().parents[2])
    done = subprocess.run(
        [*words, root, "--version"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "raydqn", "")
    words[4] = "1"  # its parent has ended already
    done = subprocess.run([*words, root, "--version"], capture_output=True, check=False)
    assert done.returncode == 75


def test_the_program_pins_itself_and_ends_with_its_parent(tmp_path):
    core = min(os.sched_getaffinity(0))
    tail = "import time; print(os.sched_getaffinity(0), flush=True); time.sleep(60)"
    program = trial_process.PROGRAM.replace('runpy.run_module("deploy"', f'{tail}; print("deploy"')
    parent = (
        "import os, subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {program!r}, str(os.getpid()), '{core}', '.']);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line == f"{{{core}}}\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout.read() == ""  # the child has ended, too


def test_two_trials_do_not_share_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr("psutil.cpu_percent", lambda *_, percpu: [80.0, 9.0, 0.0])
    with own_cores(1, tmp_path) as idle:
        assert idle == (1,)  # a few percent do not count
    monkeypatch.setattr("psutil.cpu_percent", lambda *_, percpu: [0.0])
    with own_cores(2, tmp_path) as one:
        assert one == (0, 1)
        with own_cores(1, tmp_path) as other, own_cores(1, tmp_path) as none:
            assert (other, none) == ((2,), ())
        with own_cores(2, tmp_path) as too_many:
            assert too_many == ()
    with own_cores(3, tmp_path) as all_of_them:
        assert all_of_them == (0, 1, 2)


def test_a_trial_has_the_environment_of_the_command_not_of_rays_worker(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("RAY_", "OMP_", "CUDA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user's cluster")
    settings = outer_settings()
    assert json.loads(settings[OUTER])["RAY_AUTH_TOKEN"] == "of the user's cluster"
    for name in ("RAY_AUTH_TOKEN", "RAY_JOB_ID", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "Ray's")
    monkeypatch.setenv(OUTER, settings[OUTER])
    found = outer_environment(threads=2)
    assert found["RAY_AUTH_TOKEN"] == "of the user's cluster"
    assert found["OMP_NUM_THREADS"] == "2"
    assert not {"RAY_JOB_ID", "CUDA_VISIBLE_DEVICES", OUTER} & set(found)
    assert found["PATH"] == os.environ["PATH"]

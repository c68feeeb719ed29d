"""A run whose surroundings are hard: little room, no colours, no home folder, leftovers."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time

import psutil

from support.paths import ROOT
from support.program import TINY_OPTIONS, reports_in

LEAVES_CHILDREN = """
import multiprocessing, time
from pathlib import Path
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import register

class Leaves(CartPoleEnv):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        with (Path(__file__).parent / "children").open("a") as file:
            file.write(f"{child.pid}\\n")

register("Leaves-v0", entry_point=Leaves, max_episode_steps=50)
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38)[;m]")


def in_terminal(arguments, **environment):
    """`raydqn ARGUMENTS` in a terminal: exit code, output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 1 << 16):
            output += data
    except OSError:  # the last process has closed it
        return process.wait(20), output.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    raise AssertionError(output)


def test_a_run_in_hard_surroundings_goes_on(tmp_path):
    (tmp_path / "leaves.py").write_text(LEAVES_CHILDREN)
    run, begin_s = tmp_path / "my run", time.monotonic()
    hard = {
        "COLUMNS": "40",
        "NO_COLOR": "1",
        "HOME": "/proc/nothing",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
    }
    options = (
        "--env.id",
        "leaves:Leaves-v0",
        "--run-dir",
        str(run),
        *TINY_OPTIONS,
        "--stop.learner-steps=20",
    )
    code, out = in_terminal(("train", "cartpole", "--inline", *options), **hard)
    assert code == 0, out
    assert time.monotonic() - begin_s < 60
    assert reports_in(run)
    assert "Traceback" not in out
    assert "go on after" not in out
    assert f"to evaluate: raydqn evaluate '{run}'\n" in out, "the command can be pasted"
    assert not COLOUR.search(out)
    panel = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out[: out.index("ended after")])
    lines = [line for line in re.split(r"[\r\n]+", panel) if not line.startswith("run folder")]
    assert max(map(len, lines)) <= 40, lines
    children = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    assert len(children) > 2
    assert not [pid for pid in children if psutil.pid_exists(pid)]


def test_matplotlib_says_nothing_without_a_home_folder():
    code = (
        "from deploy.reporting.matplotlib_folder import use_writable_folder\n"
        "use_writable_folder()\n"
        "import matplotlib\n"
        "print(matplotlib.get_configdir())\n"
    )
    environment = {**os.environ, "HOME": "/proc/nothing"}
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert not os.path.exists(done.stdout.strip()), "the temporary folder is removed"  # noqa: PTH110


def test_threads_of_an_environment_do_not_keep_the_command():
    code = (
        "import sys, threading, time\n"
        "from deploy.cli import main\n"
        "main.END_S = 0.3\n"
        "sys.argv = ['raydqn', 'presets']\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "sys.exit(main.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    says = "raydqn: threads of the environment go on after 0.3 s: ended without them\n"
    assert (done.returncode, done.stderr) == (0, says), json.dumps(done.stdout)

"""Processes that import little start fast: what none of them imports."""

from __future__ import annotations

import subprocess
import sys

from support.paths import ROOT


def test_importing_the_package_imports_nothing_heavy():
    code = "import deploy, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"torch", "ray", "pydantic", "numpy", "gymnasium", "rich"} & set(loaded)


def test_the_help_imports_nothing_heavy():
    code = (
        "import sys; from deploy.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = {"torch", "ray", "pydantic", "numpy", "gymnasium", "rich", "tomlkit", "psutil"}
    assert not heavy & set(done.stderr.split())


def test_a_shard_starts_without_torch_and_ray():
    # They would cost each shard's process seconds to start and hundreds of megabytes.
    program = (
        "import sys, replay_server.server, replay_server.writer, replay_server.sampler;"
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=240, check=False)
    assert done.returncode == 0


def test_a_learner_that_learns_has_not_imported_the_compiler_of_torch():
    """It takes a second, in each learner that starts."""
    code = """
import sys, tempfile
from pathlib import Path
from deploy.launch.presets import make_config
from deploy.launch.train import train
with tempfile.TemporaryDirectory() as folder:
    over = {
        "stop": {"score": None, "learner_steps": 20},
        "learner": {"batch_size": 32, "warmup_transitions": 100, "train_steps": 10},
        "evaluation": {"episodes": 2, "envs": 2},
    }
    made = train(make_config("cartpole", overrides=over), Path(folder, "run"))
assert made["stop_reason"] == "learner_steps"
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

"""A run folder that an earlier version wrote: it resumes as it did, and every command reads it.

The folder was written by the version before `deploy` was divided into sub-packages:

    raydqn train cartpole --inline --seed 1 --replay.capacity 500 --network.hidden 16 \
        --learner.warmup-transitions 100 --learner.batch-size 16 --learner.samples-per-insert 4 \
        --learner.train-steps 10 --learner.publish-steps 5 --learner.target-sync-steps 20 \
        --actors.envs 4 --actors.collect-steps 8 --actors.chunk-steps 8 \
        --evaluation.every-learner-steps 40 --evaluation.episodes 3 --evaluation.envs 3 \
        --checkpoint.every-learner-steps 40 --checkpoint.keep 1 --report.every-s 1000 \
        --stop.score none --stop.learner-steps 100 --run-dir version-0.1
"""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from common.weights import unpack_weights
from deploy.cli.main import main
from deploy.launch.resume import resume
from deploy.reporting.evaluation import evaluate, load_weights
from deploy.reporting.plot import plot_runs
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import read_metrics
from deploy.runs.run_status import read_ended
from support.paths import ROOT

OLD_RUN = ROOT / "tests" / "support" / "runs" / "version-0.1"
RESUMED = OLD_RUN.with_name("version-0.1-resumed.safetensors")
"""Weights by the same version: raydqn resume version-0.1 --inline --stop.learner-steps 200"""


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD_RUN, tmp_path / OLD_RUN.name)


def test_an_old_run_resumes_to_the_weights_that_its_own_version_gave(run):
    # That version ended all episodes at each checkpoint, and had no other way.
    summary = resume(run, {"stop": {"learner_steps": 200}, "checkpoint": {"exact": True}})
    assert summary["learner_steps"] == 200
    weights, _ = load_weights(RunFolder.open(run), "latest")
    parameters, _ = unpack_weights(weights)
    expected = load_file(RESUMED)
    assert parameters.keys() == expected.keys()
    # Another processor multiplies in another order: 3e-8 apart at the most were seen, and 0.003
    # after a learner step less.
    for name, tensor in expected.items():
        torch.testing.assert_close(parameters[name], tensor, rtol=0, atol=1e-6)
    assert read_ended(RunFolder.open(run))["learner_steps"] == 200
    assert (run / "lives").read_text() == "2"


def test_status_evaluation_and_plot_read_an_old_run(run, tmp_path, capsys):
    ended = read_ended(RunFolder.open(run))
    assert (ended["stop_reason"], ended["learner_steps"]) == ("learner_steps", 100)
    assert main(["status", str(run)]) == 0
    assert ": stop.learner_steps reached; 506 env steps" in capsys.readouterr().out
    assert len(read_metrics(run)) == 1
    plot_runs([run], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    for which in ("best", "latest"):
        assert evaluate(RunFolder.open(run), 2, which)["episodes"] == 2

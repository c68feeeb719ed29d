"""Whole runs in another precision or of another algorithm resume bit for bit."""

from __future__ import annotations

import shutil

import pytest

from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs.folder import SUMMARY
from support.fakes import Messages, tiny
from support.reliability import store_in


def config_of(precision, **checkpoint):
    return tiny(
        network={"hidden": [16]},
        learner={"precision": precision},
        checkpoint={"every_learner_steps": 30, "every_s": None, **checkpoint},
        evaluation={"every_learner_steps": 50},
        stop={"learner_steps": 100},
    )


ALGORITHMS = {
    "rainbow": {"head": "categorical", "value_max": 20.0, "noisy": True, "dueling": True},
    "munchausen-iqn": {"head": "implicit-quantile", "cosines": 8, "hidden": [16, 16]},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_killed_run_of_another_algorithm_resumes_bit_for_bit(tmp_path, name):
    munchausen = name.startswith("munchausen")
    config = tiny(
        network={"hidden": [16], **ALGORITHMS[name]},
        learner={"munchausen": munchausen, "double": not munchausen, "learning_rate_end": 0.0},
        checkpoint={"every_learner_steps": 30, "every_s": None, "exact": True},
        evaluation={"every_learner_steps": 50},
        stop={"learner_steps": 70},
    )
    run = tmp_path / "run"
    whole = train(config, run)
    (run / SUMMARY).unlink()
    for checkpoint in store_in(run).names()[1:]:
        shutil.rmtree(run / "checkpoints" / checkpoint)
    resumed = resume(run)
    for key in ("weights_sha256", "learner_steps", "env_steps", "episodes", "score"):
        assert resumed[key] == whole[key], key


def test_a_killed_run_in_bf16_resumes_bit_for_bit(tmp_path):
    whole = train(config_of("bf16", exact=True), tmp_path / "whole")
    exact = train(config_of("fp32", exact=True), tmp_path / "fp32")
    assert whole["weights_sha256"] != exact["weights_sha256"]
    for left in (1, 2):  # as the disk was when it was killed: so many checkpoints were written
        run = tmp_path / f"killed-{left}"
        shutil.copytree(tmp_path / "whole", run)
        (run / SUMMARY).unlink()
        for name in store_in(run).names()[left:]:
            shutil.rmtree(run / "checkpoints" / name)
        resumed = resume(run)
        for key in ("weights_sha256", "learner_steps", "env_steps", "episodes", "score"):
            assert resumed[key] == whole[key], (left, key)


@pytest.mark.parametrize(("precision", "told"), [("tf32", 1), ("bf16", 0), ("fp32", 0)])
def test_tf32_on_a_cpu_is_told_once(tmp_path, precision, told):
    view = Messages()
    train(config_of(precision), tmp_path / "run", view=view)
    lines = [
        line
        for line in view.lines
        if "learner.precision=tf32: has no effect on cpu; the learner" in line
    ]
    assert len(lines) == told

"""Whole runs on an environment where an illegal action ends the episode."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from deploy.launch.resume import resume
from deploy.reporting.evaluation import evaluate
from deploy.runs.folder import RunFolder
from support.masked import LEGAL_MOVES, LegalMovesEnv
from support.program import TINY_OPTIONS, checkpoints_in, raydqn_here, summary_of


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("info", ("--learner.double", "true")),
        ("method", ("--learner.double", "false", "--replay.compression", "lz4")),
    ],
)
def test_no_illegal_action_is_ever_taken(tmp_path, source, options):
    run = tmp_path / "run"
    LegalMovesEnv.taken.clear()
    code, out, err = raydqn_here(
        *("train", "cartpole", "--inline", "--json", "--run-dir", str(run), *TINY_OPTIONS),
        *("--env.id", LEGAL_MOVES, "--env.action-mask", source, "--replay.shards", "2", *options),
        *("--evaluation.every-learner-steps", "30", "--stop.learner-steps", "40"),
        *("--stop.score", "none"),
    )
    assert code == 0, err
    summary = summary_of(out)
    assert summary["score"] == 6.0, "each legal step pays 1"
    assert summary["protocol"]["action_mask"] == source
    resume(run, {"stop": {"learner_steps": 50}}, inline=True)
    offline = evaluate(RunFolder.open(run), 4)
    assert (offline["min"], offline["mean_length"]) == (6.0, 6.0)
    assert LegalMovesEnv.taken[True] > 500
    assert not LegalMovesEnv.taken[False]
    learner = checkpoints_in(run).newest().tensors["learner"]
    assert all(np.isfinite(tensor).all() for tensor in learner.values())
    other = {"stop": {"learner_steps": 100}, "env": {"action_mask": "none"}}
    with pytest.raises(UserError, match=rf"env\.action_mask=none: .*was made with {source} and "):
        resume(run, other, inline=True)


def test_taxi_is_trained_with_its_masks(tmp_path):
    code, out, err = raydqn_here(
        *("train", "cartpole", "--inline", "--json", "--run-dir", str(tmp_path / "run")),
        *(*TINY_OPTIONS, "--env.id", "Taxi-v4", "--env.action-mask", "info"),
        *("--evaluation.every-learner-steps", "none", "--stop.learner-steps", "5"),
        *("--stop.score", "none"),
    )
    assert code == 0, err
    assert summary_of(out)["learner_steps"] == 5

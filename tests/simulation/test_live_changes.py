"""Changing a run while it trains, by a request in its folder."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from deploy.control.control_file import ControlFile
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs.folder import CONTROL, RunFolder
from deploy.supervisor.timeouts import Timeouts
from support.fakes import Messages, tiny, use_timeouts
from support.program import TINY, reports_in

OFTEN = {"every_s": 0.001}
NO_EVALUATION = {"every_learner_steps": 10**6, "episodes": 2, "envs": 2}


class Asking(Messages):
    """A view that writes requests after some learner steps, one after the other."""

    def __init__(self, run, steps, *texts: str) -> None:
        super().__init__()
        self.run, self.steps, self.texts = run, steps, list(texts)

    def update(self, report) -> None:
        path = self.run / CONTROL
        if self.texts and report["learner_steps"] >= self.steps and not path.exists():
            path.write_text(self.texts.pop(0))


def test_a_run_takes_a_change_over_records_it_and_says_so(tmp_path, always_looking):
    run = tmp_path / "run"
    text = "[learner]\nsamples_per_insert = 16.0\nsamples_per_insert_error = 1000\n"
    view = Asking(run, 60, text)
    config = tiny(stop={"learner_steps": 300}, report={"every_s": 0.01}, evaluation=NO_EVALUATION)
    summary = train(config, run, view=view)
    assert (
        "applied: learner.samples_per_insert 4 → 16, learner.samples_per_insert_error none → 1000"
        in view.lines
    )
    assert not (run / CONTROL).exists()
    assert summary["samples_per_insert"] == pytest.approx(16, rel=0.1)
    recorded = RunFolder.open(run)
    assert recorded.config.learner.samples_per_insert == 16.0
    assert recorded.config.learner.samples_per_insert_error == 1000.0
    saved = recorded.checkpoints.newest().state["config"]
    assert saved["learner"]["samples_per_insert"] == 16.0
    # The change must not make up for what was before it: 60 · 32 samples at 4 per insert would be
    # 360 inserts too many, and no insert for 5,760 samples.
    first = [r for r in reports_in(run) if r["learner_steps"] < 60][-1]
    inserted = summary["transitions"] - first["transitions"]
    learnt = (summary["learner_steps"] - first["learner_steps"]) * 32
    assert learnt / inserted == pytest.approx(16, rel=0.2)
    # A resume keeps it.
    again = resume(run, {"stop": {"learner_steps": 340}})
    assert again["samples_per_insert"] == pytest.approx(16, rel=0.1)


def test_checkpoints_come_at_the_new_interval_from_then_on(tmp_path, always_looking):
    run = tmp_path / "run"
    view = Asking(run, 20, "[checkpoint]\nevery_learner_steps = 20\n")
    checkpoint = {"every_learner_steps": 10_000, "keep": 100}
    config = tiny(
        stop={"learner_steps": 160}, report=OFTEN, checkpoint=checkpoint, evaluation=NO_EVALUATION
    )
    train(config, run, view=view)
    assert "applied: checkpoint.every_learner_steps 10000 → 20" in view.lines
    names = RunFolder.open(run).checkpoints.names()
    steps = sorted(int(name.rpartition("-")[2]) for name in names)
    assert steps[0] >= 20
    assert len(steps) >= 6
    between = [b - a for a, b in pairwise(steps[:-1])]
    assert min(between) >= 20
    assert max(between) < 20 + TINY["learner"]["train_steps"]


def test_the_same_seed_and_no_change_still_give_the_same_weights(tmp_path, always_looking):
    config = tiny(stop={"learner_steps": 60}, report=OFTEN)
    same = "[learner]\nsamples_per_insert = 4.0\n"
    plain = train(config, tmp_path / "a")
    asked = train(config, tmp_path / "b", view=Asking(tmp_path / "b", 20, same))
    assert plain["weights_sha256"] == asked["weights_sha256"]


def test_a_damaged_request_is_named_and_removed_and_the_run_continues(tmp_path, always_looking):
    run = tmp_path / "run"
    damaged = [
        "[learner", "[learner]\nsamples_per_insert = -1.0\n", "[learner]\nbatch_size = 3\n",
        "[learner]\nsamples_per_insert_error = 1.0\n", "[learner]\nsamples_per_insert = [",
    ]  # fmt: skip
    view = Asking(run, 20, *damaged)
    config = tiny(stop={"learner_steps": 90}, report=OFTEN, evaluation=NO_EVALUATION)
    assert train(config, run, view=view)["learner_steps"] == 90
    said = [line for line in view.lines if "nothing was changed" in line]
    assert len(said) == len(damaged), "each is named once"
    assert "batch_size: cannot be changed" in said[2]
    assert not (run / CONTROL).exists()
    assert RunFolder.open(run).config == config


def test_a_change_that_cannot_be_recorded_is_not_made(tmp_path, always_looking, monkeypatch):
    def disk_full(self, config):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "save_config", disk_full)
    run = tmp_path / "run"
    view = Asking(run, 20, "[learner]\nsamples_per_insert = 16.0\n")
    config = tiny(stop={"learner_steps": 80}, report=OFTEN, evaluation=NO_EVALUATION)
    summary = train(config, run, view=view)
    assert any("No space left on device; nothing was changed" in line for line in view.lines)
    assert summary["samples_per_insert"] == pytest.approx(4, rel=0.2)


def test_a_request_to_an_earlier_attempt_is_not_taken(tmp_path, always_looking):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    (run / CONTROL).write_text("[learner]\nsamples_per_insert = 16.0\n")
    view = Asking(run, 0)
    resume(run, {"stop": {"learner_steps": 50}}, view=view)
    assert not any("changed" in line for line in view.lines)
    assert not (run / CONTROL).exists()


def test_a_request_that_came_too_late_does_not_stay(tmp_path, monkeypatch):
    use_timeouts(monkeypatch, control_every_s=1e9)
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run, view=Asking(run, 0, "[learner]\n"))
    assert not (run / CONTROL).exists()


def test_the_run_looks_at_the_interval_of_its_timeouts(tmp_path, monkeypatch):
    assert Timeouts().control_every_s == 1.0
    use_timeouts(monkeypatch, control_every_s=0.15)
    looks = []
    monkeypatch.setattr(ControlFile, "read", lambda self: looks.append(time.monotonic()))
    config = tiny(stop={"learner_steps": None, "score": None, "wall_s": 0.8})
    train(config, tmp_path / "run")
    assert len(looks) >= 2
    assert all(b - a > 0.14 for a, b in pairwise(looks))

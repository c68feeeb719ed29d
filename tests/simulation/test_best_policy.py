"""The best policy outlives its machine, a resume from an older checkpoint, and a restart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploy.cli.main import main
from deploy.launch.resume import fetch_run, resume
from deploy.launch.train import train
from deploy.reporting.evaluation import load_weights
from deploy.runs.folder import RunFolder
from support.fakes import tiny
from support.program import TINY_OPTIONS

EVERY = {"every_learner_steps": 20, "every_s": None, "keep": 10}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A folder with a run and its storage, and a copy of that folder."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny(
        stop={"learner_steps": 60},
        evaluation={"every_learner_steps": 20},
        learner={"samples_per_insert": 16.0},
        checkpoint={**EVERY, "storage": str(folder / "work" / "storage")},
    )
    train(config, folder / "work" / "runs" / "mine")
    shutil.copytree(folder / "work", folder / "copy")
    return folder / "work", folder / "copy"


@pytest.fixture
def trained(trained_once, monkeypatch):
    """A run of which the storage is elsewhere: its folder, the URL of its checkpoints."""
    work, copy = trained_once
    shutil.rmtree(work)
    shutil.copytree(copy, work)
    monkeypatch.chdir(work)
    return work / "runs" / "mine", str(work / "storage" / "mine")


def test_a_run_whose_folder_is_gone_has_its_best_policy_and_records_again(trained):
    run, url = trained
    names = ("best.safetensors", "metrics.jsonl", "run.log", "summary.json")
    before = {name: (run / name).read_bytes() for name in names}
    best = RunFolder.open(run).best_score()
    shutil.rmtree(run)
    assert fetch_run(url).resolve() == run
    assert {name: (run / name).read_bytes() for name in names} == before
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    summary = resume(run, {"stop": {"learner_steps": 80}})
    assert summary["best_score"] >= best
    assert load_weights(RunFolder.open(run), "best")[1].startswith("best evaluation, learner step")


def test_a_best_policy_that_is_missing_is_told(trained):
    run, url = trained
    (run / "best.safetensors").unlink()
    (Path(url) / "records" / "best.safetensors").unlink()
    source = load_weights(RunFolder.open(run), "best")[1]
    assert source.startswith("checkpoint 0")
    assert "weights of the best evaluation, score " in source
    resume(run, {"stop": {"learner_steps": 80}})
    assert "the weights of the best evaluation" in (run / "run.log").read_text()
    assert RunFolder.open(run).best_score() is not None, "the next one counts as the best"


@pytest.mark.parametrize("how", ["from an older checkpoint", "anew"])
def test_the_best_policy_is_never_replaced_by_a_worse_one(trained, how):
    run, _ = trained
    folder = RunFolder.open(run)
    weights, meta = folder.load_best()
    oldest = folder.checkpoints.names()[0]

    class Report:  # better than any policy of this run will be
        score, returns, learner_steps, version = 499.0, [499.0], int(meta["learner_steps"]), 7

    Report.weights = weights
    folder.save_best(Report)
    best = (run / "best.safetensors").read_bytes()
    if how == "anew":
        for name in folder.checkpoints.names():
            shutil.rmtree(Path(folder.checkpoints.storage.url) / name)
        train(folder.config, run, restart=True)
    else:
        resume(run, {"stop": {"learner_steps": 80}}, checkpoint_name=oldest)
    assert (run / "best.safetensors").read_bytes() == best
    assert json.loads((run / "summary.json").read_text())["best_score"] == 499.0


# ── a command that a machine restarts ──────────────────────────────────────────────────────────


def test_the_same_command_begins_continues_and_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(steps):
        options = ("--inline", "--json", "--resume-if-exists", "--run-dir", "runs/mine")
        where = ("--checkpoint.storage", str(tmp_path / "storage"))
        goal = ("--stop.score", "none", "--stop.learner-steps", str(steps))
        code = main(["train", "cartpole", *TINY_OPTIONS, *options, *where, *goal])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    def steps_of(out):
        return json.loads(out.splitlines()[-1])["learner_steps"]

    log = tmp_path / "runs" / "mine" / "run.log"
    assert steps_of(command(20)) == 20
    again = command(20)  # ended well: systemd or a Job tries no more
    assert "nothing to do: " in again
    assert steps_of(again) == 20
    (log.parent / "summary.json").unlink()  # killed before it was written
    assert json.loads(command(20).splitlines()[-1]) == {
        "run": "runs/mine", "stop_reason": "learner_steps"
    }  # fmt: skip
    assert steps_of(command(40)) == 40  # continues
    shutil.rmtree(tmp_path / "runs")  # another machine, with an empty disk
    assert steps_of(command(60)) == 60
    assert log.read_text().count("attempt ") == 3
    # Before the first checkpoint there is nothing to continue from: it begins again.
    shutil.rmtree(tmp_path / "storage")
    assert steps_of(command(30)) == 30
    assert log.read_text().count("attempt ") == 4, "the log is kept"


def test_a_run_without_a_name_cannot_be_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cartpole", "--inline", "--resume-if-exists"]) == 2
    assert "--resume-if-exists: needs --run-dir" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_stale_folder_takes_the_better_policy_and_the_records_of_another_machine(trained):
    """Two machines in turn, each with a folder of its own: the first comes back."""
    run, _ = trained
    stale = run.parent / "stale"
    shutil.copytree(run, stale)
    folder = RunFolder.open(run)
    weights, meta = folder.load_best()

    class Report:
        score, returns, learner_steps, version = 499.0, [499.0], int(meta["learner_steps"]), 7

    Report.weights = weights
    resume(run, {"stop": {"learner_steps": 80}})
    folder.save_best(Report)
    assert folder.records.finish(10)
    best, lines = (run / "best.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run)
    stale.rename(run)
    summary = resume(run, {"stop": {"learner_steps": 100}})
    assert summary["best_score"] == 499.0
    assert (run / "best.safetensors").read_bytes() == best
    assert (run / "metrics.jsonl").read_bytes().startswith(lines)


def test_a_command_for_another_environment_or_of_a_running_run_is_refused(
    trained, monkeypatch, capsys
):
    run, _ = trained
    options = ["--inline", "--resume-if-exists", "--run-dir", str(run)]
    assert main(["train", "cartpole", "--env.id", "Acrobot-v1", *options]) == 2
    assert "is of a run with env.id=CartPole-v1, but the command has Acrobot-v1" in (
        capsys.readouterr().err
    )
    with RunFolder.open(run).lock():
        assert main(["train", "cartpole", *TINY_OPTIONS, *options]) == 2
    assert "another process is running it" in capsys.readouterr().err

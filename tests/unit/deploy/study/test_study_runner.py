"""A study with a runner in the place of Ray Tune."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from common.errors import UserError
from deploy.runs.study_folder import read_study
from deploy.study import study
from deploy.study.study import run_study
from support.studies import write_run, write_study_file

STUDY = 'preset = "cartpole"\nseeds = [1, 2, 3]\n[overrides]\nstop.env_steps = 100\n'
OPTUNA = (
    'preset = "cartpole"\n[search]\nsamples = 4\nsearcher = "optuna"\n[search.space]\n'
    "learner.gamma = { uniform = [0.5, 2.0] }"
)


class View:
    """Keeps the lines it is shown."""

    def __init__(self):
        self.lines = []

    def update(self, record):
        self.lines.append([trial.status for trial in record.trials])

    def notify(self, text):
        self.lines.append(text)

    def close(self):
        pass


class FakeTune:
    """Runs one trial after the other; each ends with the outcome that is given for it."""

    def __init__(self):
        self.outcomes = {}
        self.commands = []
        self.settings = None
        self.samples = iter(())

    def run_trials(self, queue, folder, parallel, settings):
        self.settings = settings
        assert not (folder / "stop").exists()
        while queue.remaining() and not queue.stopping:
            command = queue.take()
            if command is None and queue.remaining():
                command = queue.add(next(self.samples))
            if command is None:
                continue
            self.commands.append(command)
            queue.started(command.name)
            write_run(command.run, {"env_steps": 100, "score": 5.0, "best_score": 6.0})
            queue.tick()
            outcome = self.outcomes.get(command.name, "finished")
            if outcome == "killed":
                raise SystemExit
            if outcome == "interrupted":
                queue.stop()
            queue.ended(command.name, outcome, "no" if outcome == "failed" else "")


@pytest.fixture
def tune(monkeypatch):
    fake = FakeTune()
    monkeypatch.setattr(study, "run_trials", fake.run_trials)
    monkeypatch.setattr(study, "trial_workers", lambda parallel, **_: study.suppress())
    monkeypatch.setattr(study, "check_installed", lambda optuna: None)
    return fake


def run(tmp_path, text=STUDY, **options):
    file = write_study_file(tmp_path, text)
    return run_study(file, tmp_path / "study", View(), **options)


def statuses(record):
    return [trial.status for trial in record.trials]


def test_every_trial_is_run_in_a_folder_of_its_own(tmp_path, tune):
    record = run(tmp_path)
    assert statuses(record) == ["finished"] * 3
    assert (record.trials[0].env_steps, record.trials[0].score) == (100, 5.0)
    assert read_study(tmp_path / "study") == record
    command = tune.commands[1]
    toml = tmp_path / "study" / "trials" / "cartpole-s2.toml"
    assert command.words == (
        *("train", "cartpole", "--config", str(toml)),
        *("--run-dir", str(tmp_path / "study" / "runs" / "cartpole-s2")),
        *("--resume-if-exists", "--inline"),
    )
    assert tomllib.loads(toml.read_text()) == {"stop": {"env_steps": 100}, "seed": 2}
    assert (tmp_path / "study" / "study.toml").read_text() == STUDY


def test_a_failed_trial_ends_no_study_and_is_run_again_only_if_asked(tmp_path, tune):
    tune.outcomes = {"cartpole-s1": "failed"}
    record = run(tmp_path)
    assert statuses(record) == ["failed", "finished", "finished"]
    assert record.trials[0].error == "no"
    tune.outcomes, tune.commands = {}, []
    assert statuses(run(tmp_path)) == ["failed", "finished", "finished"]
    assert tune.commands == []
    assert statuses(run(tmp_path, retry_failed=True)) == ["finished"] * 3
    assert [command.name for command in tune.commands] == ["cartpole-s1"]


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, tune):
    tune.outcomes = {"cartpole-s2": "interrupted"}
    assert statuses(run(tmp_path)) == ["finished", "pending", "pending"]
    assert not (tmp_path / "study" / "stop").exists()
    tune.outcomes, tune.commands = {}, []
    assert statuses(run(tmp_path)) == ["finished"] * 3
    assert [command.name for command in tune.commands] == ["cartpole-s2", "cartpole-s3"]


def test_a_killed_study_goes_on_where_it_was(tmp_path, tune):
    tune.outcomes = {"cartpole-s2": "killed"}
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert statuses(read_study(tmp_path / "study")) == ["finished", "pending", "pending"]
    (tmp_path / "study" / "stop").touch()  # it was asked to end, too
    tune.outcomes, tune.commands = {}, []
    assert statuses(run(tmp_path, STUDY.replace("3]", "3, 4]"))) == ["finished"] * 4
    assert len(tune.commands) == 3


def test_nothing_begins_with_a_mistake_in_any_trial(tmp_path, tune):
    text = STUDY + "[variants.a]\n[variants.b]\nlearner.gamma = 2.0"
    with pytest.raises(UserError, match=r"trial cartpole-b-s1: learner\.gamma=2\.0"):
        run(tmp_path, text)
    assert tune.commands == []
    assert not (tmp_path / "study").exists()


def test_optuna_adds_trials_and_learns_from_those_before(tmp_path, tune):
    text = OPTUNA
    tune.samples = iter([{"learner.gamma": g} for g in (0.9, 1.5, 0.95)])
    tune.outcomes = {"cartpole-0003-s1": "interrupted"}
    record = run(tmp_path, text)
    assert statuses(record) == ["finished", "failed", "pending"]
    assert record.total == 4
    assert "learner.gamma=1.5: must be at most 1" in record.trials[1].error
    tune.samples, tune.outcomes = iter([{"learner.gamma": 0.6}]), {}
    record = run(tmp_path, text)
    assert statuses(record) == ["finished", "failed", "finished", "finished"]
    assert [trial.parameters["learner.gamma"] for trial in record.trials] == [0.9, 1.5, 0.95, 0.6]
    past = tune.settings.past
    assert [(one.parameters["learner.gamma"], one.failed) for one in past] == [
        *((0.9, False), (1.5, True)),
    ]
    assert past[0].results == [{"env_steps": 100, "score": 5.0}]


def test_a_refused_sample_of_optuna_fails_again_and_ends_no_study(tmp_path, tune):
    tune.samples = iter([{"learner.gamma": g} for g in (1.5, 0.9, 0.95, 0.99)])
    assert statuses(run(tmp_path, OPTUNA)) == ["failed", *["finished"] * 3]
    record = run(tmp_path, OPTUNA, retry_failed=True)  # and it was the last to be run
    assert statuses(record) == ["failed", *["finished"] * 3]
    assert "learner.gamma=1.5: must be at most 1" in record.trials[0].error
    assert read_study(tmp_path / "study") == record


def test_a_scheduler_needs_to_know_how_long_a_trial_is(tmp_path, tune):
    text = (
        'preset = "cartpole"\n[overrides]\nstop.env_steps = 5_000\n[search]\n'
        'searcher = "grid"\nscheduler = "asha"\n[search.space]\n'
        "learner.gamma = { choice = [0.9, 0.99] }"
    )
    assert len(run(tmp_path, text).trials) == 2
    settings = tune.settings
    assert (settings.grace_env_steps, settings.max_env_steps, settings.scheduler) == (
        *(500, 5_000, "asha"),
    )
    assert tune.commands[0].every_env_steps == 125
    endless = write_study_file(tmp_path, text.replace("5_000", '"none"'))
    with pytest.raises(UserError, match="grace_env_steps=none: must be set"):
        run_study(endless, tmp_path / "b", View())


def test_more_than_the_machine_holds_is_refused(tmp_path, tune, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(UserError, match="cores=3: this machine has 2"):
        run(tmp_path, "cores = 3\n" + STUDY)
    with pytest.raises(UserError, match="parallel=2: with cores=2 this machine holds 1"):
        run(tmp_path, "cores = 2\nparallel = 2\n" + STUDY)
    run(tmp_path, "cores = 2\n" + STUDY)
    assert tune.commands[0].cores == 2
    toml = (tmp_path / "study" / "trials" / "cartpole-s1.toml").read_text()
    assert tomllib.loads(toml)["learner"] == {"threads": 2}


@pytest.mark.parametrize(
    ("more", "cores", "line"),
    [
        ("", {0, 1}, "2 trials at a time (each takes 1 of the 2 cores)"),
        ("", {0}, "1 trial at a time (each takes 1 of the 1 core)"),
        ("", {0, 1, 2, 3}, "3 trials at a time (no more are to run)"),
        ("parallel = 2\n", {0, 1, 2}, "2 trials at a time (parallel=2)"),
        ("run.inline = false\n", {0, 1}, "1 trial at a time (run.inline=false, parallel=auto)"),
        ("parallel = 2\nrun.inline = false\n", {0}, "2 trials at a time (parallel=2)"),
    ],
)
def test_a_study_says_at_once_what_will_run(tmp_path, tune, monkeypatch, more, cores, line):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores)
    view = View()
    run_study(write_study_file(tmp_path, more + STUDY), tmp_path / "study", view)
    assert view.lines[:3] == [
        "study sweep: 3 trials (1 preset × 3 seeds); 3 to run; their runs are in "
        f"{tmp_path / 'study' / 'runs'}",
        f"{line}; the first begins when Ray is up, which may take half a minute",
        ["pending"] * 3,  # a trial that begins, or is refused, is then a change
    ]


def test_a_folder_is_no_study_file_and_other_files_are_not_written_over(tmp_path, tune):
    run(tmp_path)
    with pytest.raises(UserError, match="is a folder; name a study file; `raydqn study status"):
        run_study(tmp_path / "study", None, View())
    mine = write_study_file(tmp_path / "study" / "runs", "# mine", "study.toml")
    with pytest.raises(UserError, match="runs: is not empty, and not the folder of a study"):
        run_study(tmp_path / "sweep.toml", tmp_path / "study" / "runs", View())
    assert mine.read_text() == "# mine"


def test_little_memory_is_a_reason(tmp_path, tune, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(study, "available_bytes", lambda: 2 << 30)
    view = View()
    run_study(write_study_file(tmp_path, STUDY), tmp_path / "study", view)
    assert "at a time (each takes 0.6 of 1.6 GiB of memory)" in view.lines[1]


def test_trials_of_a_cluster_are_not_inline(tmp_path, tune):
    run(tmp_path, STUDY + '[run]\ninline = false\naddress = "auto"\n')
    assert tune.commands[0].words[-2:] == ("--address", "auto")
    assert tune.commands[0].cores == 0
    assert tune.commands[0].folder == Path.cwd()

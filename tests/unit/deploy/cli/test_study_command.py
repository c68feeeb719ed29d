"""`raydqn study`: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from common.errors import RunFailedError
from deploy.cli.main import main
from deploy.launch.signals import StartInterrupted
from deploy.study import study
from support.studies import trial, write_study, write_study_file


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Has `run_study` return trials of these states, or raise an error."""

    def end(*states, error=None):
        def run(source, folder, view, retry_failed):
            if error is not None:
                raise error
            trials = [
                trial(tmp_path, f"t{number}", status=state, error="no" if state == "failed" else "")
                for number, state in enumerate(states)
            ]
            return write_study(tmp_path / "study", *trials)

        monkeypatch.setattr(study, "run_study", run)

    return end


@pytest.mark.parametrize(
    ("states", "code", "hint"),
    [
        (("finished", "stopped"), 0, ""),
        (("finished", "failed"), 3, "to repeat 1 failed trial: raydqn study my.toml --retry-"),
        (("finished", "pending"), 75, "to continue: raydqn study my.toml"),
        (("failed", "pending"), 75, "to continue: raydqn study my.toml"),
    ],
)
def test_the_exit_code_tells_how_a_study_ended(ended, capsys, states, code, hint):
    ended(*states)
    assert main(["study", "my.toml", "--json"]) == code
    out, err = capsys.readouterr()
    assert hint in out
    assert ("raydqn: t1: failed: no" in err) == (states[1] == "failed")
    assert json.loads(out.splitlines()[-1])["total"] == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StartInterrupted(), 75, "stopped at once; the same command continues the study"),
        (KeyboardInterrupt(), 130, "stopped at once; the same command continues the study"),
        (RunFailedError("Ray Tune failed: x"), 1, "failed: Ray Tune failed: x; the same command"),
    ],
)
def test_an_error_is_one_line(ended, capsys, error, code, line):
    ended(error=error)
    assert main(["study", "my.toml"]) == code
    assert line in capsys.readouterr().err


def test_the_status_of_a_study_is_read_from_its_folder(tmp_path, capsys):
    write_study(tmp_path, trial(tmp_path, status="finished", score=9.0, env_steps=5), total=2)
    assert main(["study", "status", str(tmp_path)]) == 0
    assert "cartpole-s1  finished          5    9.0" in capsys.readouterr().out
    assert main(["study", "status", str(tmp_path), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["pending"], status["finished"], status["in_progress"]) == (1, 1, False)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["study"], "missing: FILE"),
        (["study", "status"], "missing: STUDY (see raydqn study status --help)"),
        (["study", "a", "b"], "b: one word too many (see raydqn study --help)"),
        (["study", "status", "x", "--retry-failed"], "--retry-failed: unknown option (see raydqn"),
        (["study", "status", "nowhere"], "nowhere: not the folder of a study (it is not there)"),
        (["study", "nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(capsys, words, error):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert error in err
    assert (out, err.count("\n")) == ("", 1)


def test_a_mistake_in_the_file_is_one_line(tmp_path, capsys):
    assert main(["study", str(write_study_file(tmp_path, "preset = 3"))]) == 2
    assert "preset=3: must be text" in capsys.readouterr().err

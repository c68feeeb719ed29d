"""What `raydqn report` is given: mistakes are one line, and nothing is written for them."""

from __future__ import annotations

import pytest

from common.errors import UserError
from deploy.cli.main import main
from deploy.reporting.report import Options, write_report
from deploy.reporting.words import command_text
from support.report_runs import made_up_run
from support.studies import trial, write_study


def report_on(*paths, **options):
    return write_report(paths, [], Options(film=False, **options))


def test_a_folder_that_is_given_twice_counts_once_and_is_not_compared_with_itself(tmp_path):
    run = made_up_run(tmp_path / "a")
    view = report_on(run, tmp_path / "b" / ".." / "a")
    assert view.title == "Report on a"
    with pytest.raises(UserError, match=r"--compare: .*a is given twice"):
        report_on(run, run, compare=True)


def test_a_comparison_without_a_task_in_common_says_so(tmp_path):
    one = made_up_run(tmp_path / "one")
    other = made_up_run(tmp_path / "other", overrides={"env": {"id": "Acrobot-v1"}})
    remark = ("--compare", "no task has runs of two arguments: nothing is compared")
    assert remark in report_on(one, other, compare=True).problems
    same = made_up_run(tmp_path / "same", 2)
    assert remark not in report_on(one, same, compare=True).problems
    assert remark not in report_on(one, other).problems


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("file.toml", "file.toml: is a file; name the folder of a run, of a study, or of runs"),
        ("studies", "no folder of runs; it holds studies, such as {tmp}/studies/sweep"),
        ("damaged", "no run can be read: {tmp}/damaged/config.toml: not a TOML file"),
        ("studies/sweep", "no run can be read: study sweep: 1 of 1 trial to come"),
        ("nowhere", "nowhere: cannot be read (No such file or directory)"),
    ],
)
def test_a_path_without_a_run_is_a_mistake(tmp_path, capsys, name, says):
    (tmp_path / "file.toml").write_text("")
    write_study(tmp_path / "studies" / "sweep", trial(tmp_path / "studies" / "sweep"))
    made_up_run(tmp_path / "damaged")
    (tmp_path / "damaged" / "config.toml").write_text("a = [")
    assert main(["report", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert says.format(tmp=tmp_path) in err
    assert (out, err.count("\n")) == ("", 1)
    assert not list(tmp_path.rglob("report.*"))


@pytest.mark.parametrize(
    ("command", "repeats"),
    [
        ("/a/bin/raydqn train x --run-dir /b/c --seed 3", "raydqn train x --seed 3"),
        ("raydqn train x --run-dir='/b c' --resume-if-exists --inline", "raydqn train x --inline"),
        ("raydqn train x --run-dir '/b c'", "raydqn train x"),
        ("raydqn train x --checkpoint.storage /b", "raydqn train x --checkpoint.storage /b"),
    ],
)
def test_the_command_that_repeats_a_run_does_not_name_its_folder(command, repeats):
    assert command_text(command) == repeats

"""A resumed run runs as it ran before: inline, with Ray on this machine, or on a cluster."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest

import deploy
from common.config_toml import merge
from common.errors import UserError
from deploy.cli.main import main
from deploy.launch import runtimes
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.runs.folder import RunFolder
from deploy.runtime.inline import InlineRuntime
from support.paths import ROOT
from support.program import TINY

OLD_RUN = ROOT / "tests" / "support" / "runs" / "version-0.1"
INLINE, RAY, CLUSTER = (True, None), (False, None), (False, "ray://192.0.2.1:10001")
STEPS = 20


@pytest.fixture
def opened(monkeypatch):
    """What each attempt was to run on; all of them run in this process."""
    asked: list[tuple[bool, str | None]] = []

    @contextmanager
    def open_runtime(config, spec, inline, address, events, run):
        asked.append((inline, address))
        yield InlineRuntime()

    monkeypatch.setattr(runtimes, "open_runtime", open_runtime)
    return asked


def begin(path, where, **over):
    short = {
        "stop": {"learner_steps": STEPS, "score": None},
        "evaluation": {"every_learner_steps": None},
    }
    config = make_config("cartpole", overrides=merge(TINY, {**short, **over}))
    train(config, path, inline=where[0], address=where[1])


def by_command(run, *options):
    return main(["resume", str(run), "--stop.learner-steps", str(2 * STEPS), *options])


def by_python(run, **arguments):
    deploy.resume(run, {"stop": {"learner_steps": 2 * STEPS}}, **arguments)


@pytest.mark.parametrize("where", [INLINE, RAY], ids=["inline", "ray"])
def test_a_run_is_resumed_as_it_ran_by_the_command_and_in_python(tmp_path, opened, where):
    begin(tmp_path / "run", where)
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert by_command(tmp_path / "run") == 0
    by_python(copy)
    assert opened == [where] * 3


@pytest.mark.parametrize(
    ("options", "arguments", "expected"),
    [
        (["--inline"], {"inline": True}, INLINE),
        (["--ray"], {"inline": False}, RAY),
        (["--address", CLUSTER[1]], {"address": CLUSTER[1]}, CLUSTER),
    ],
)
def test_another_way_can_be_chosen_and_is_recorded(tmp_path, opened, options, arguments, expected):
    run = tmp_path / "run"
    begin(run, CLUSTER)
    copy = shutil.copytree(run, tmp_path / "copy")
    assert by_command(run, *options) == 0
    by_python(copy, **arguments)
    assert opened == [CLUSTER, expected, expected]
    for folder in (run, copy):
        recorded = RunFolder.open(folder).checkpoints.newest().state["ran_on"]
        assert (recorded["inline"], recorded["address"]) == expected


def test_a_run_of_a_cluster_names_its_address_and_the_ways_on(tmp_path, opened, capsys):
    run = tmp_path / "run"
    begin(run, CLUSTER)
    assert by_command(run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in (str(run), CLUSTER[1], "--address", "--ray", "--inline"):
        assert word in line
    with pytest.raises(UserError) as caught:
        by_python(run)
    for word in (str(run), CLUSTER[1], "address", "inline=False", "inline=True"):
        assert word in str(caught.value)
    assert "--" not in str(caught.value)
    assert opened == [CLUSTER]


def test_the_way_survives_the_loss_of_the_run_folder(tmp_path, opened, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "a" / "mine", INLINE, checkpoint={"storage": f"file://{tmp_path}/store"})
    shutil.rmtree(tmp_path / "a")
    assert by_command(f"file://{tmp_path}/store/mine") == 0
    assert opened == [INLINE, INLINE]


def test_a_run_of_an_earlier_version_is_resumed_with_ray_by_the_command(tmp_path, opened):
    """And inline in Python: as that version would have done."""
    run = shutil.copytree(OLD_RUN, tmp_path / "run")
    copy = shutil.copytree(OLD_RUN, tmp_path / "copy")
    assert "ran_on" not in json.loads(next(run.glob("checkpoints/*/state.json")).read_text())
    assert main(["resume", str(run), "--stop.learner-steps", "120"]) == 0
    deploy.resume(copy, {"stop": {"learner_steps": 120}})
    assert opened == [RAY, INLINE]


def test_an_inline_run_really_is_resumed_in_one_process(tmp_path, capsys):
    run = tmp_path / "run"
    begin(run, INLINE)
    assert by_command(run, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["learner_steps"] == 2 * STEPS
    attempts = [line for line in (run / "run.log").read_text().splitlines() if "attempt" in line]
    assert len(attempts) == 2
    assert all("one process, without Ray" in line for line in attempts)

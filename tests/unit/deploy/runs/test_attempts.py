"""Records of attempts: command, versions and machine."""

from __future__ import annotations

import json
import platform

import torch

from common.config_toml import merge
from common.version import VERSION
from deploy.launch.presets import make_config
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs import attempts
from deploy.runs.attempts import ATTEMPT_RECORDS, read_attempts, record_attempt
from support.program import TINY


def test_each_attempt_of_a_run_records_its_command_versions_and_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["raydqn", "train", "a b"])
    run = tmp_path / "run"
    train(make_config("cartpole", overrides=merge(TINY, {"stop": {"learner_steps": 5}})), run)
    resume(run, {"stop": {"learner_steps": 10}})
    first, second = read_attempts(run)
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["command"] == "raydqn train 'a b'"
    assert first["mode"] == "one process, without Ray"
    assert first["versions"]["raydqn"] == VERSION
    assert first["versions"]["Python"] == platform.python_version()
    assert first["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert first["machine"]["cores"] >= 1
    assert first["machine"]["memory_bytes"] > 1 << 28
    assert first["machine"]["cpu"]


def test_versions_of_packages_with_environments_are_recorded(monkeypatch):
    monkeypatch.setattr(attempts.metadata, "version", lambda name: f"{name} 1")
    assert {"ale-py", "minatar", "box2d", "envpool"} <= set(attempts.versions())


def test_lines_that_are_no_records_are_left_out(tmp_path):
    assert read_attempts(tmp_path) == []
    record_attempt(tmp_path, 1, "", "raydqn train \udcff")
    with (tmp_path / ATTEMPT_RECORDS).open("ab") as file:
        file.write(b'[1]\n\xff\n{"attempt": 2')
    assert [one["attempt"] for one in read_attempts(tmp_path)] == [1]


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path):
    record_attempt(tmp_path / "nowhere", 1, "", "raydqn train")
    assert not (tmp_path / "nowhere").exists()


def test_the_processor_is_named_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "CPUINFO", tmp_path / "none")
    assert attempts.machine()["cpu"]
    (tmp_path / "none").write_text("processor : 0\nmodel name\t: Some: CPU\n")
    assert attempts.machine()["cpu"] == "Some: CPU"
    assert json.dumps(attempts.machine())

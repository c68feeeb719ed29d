"""`--help`: quick, with the configuration keys of the command; and closed output."""

from __future__ import annotations

import argparse
from inspect import signature

import pytest

from common.config_toml import KEYS
from deploy.cli.arguments import AUTO
from deploy.cli.main import COMMANDS, main
from deploy.cli.overrides import TOP_LEVEL_KEYS
from deploy.control.control_file import LIVE_KEYS

WITH_KEYS = [("train",), ("resume",), ("config",), ("cluster", "check"), ("cluster", "submit")]
COMMON = ["seed", "env.id", "actors.count", "actors.envs", "learner.batch_size"]


def help_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def keys_in(text: str) -> set[str]:
    """Keys that a help lists at the beginnings of its lines."""
    lines = [line.split() for line in text.splitlines() if line.startswith("  --")]
    return {words[0].removeprefix("--").replace("-", "_") for words in lines} & set(KEYS)


@pytest.mark.parametrize("command", WITH_KEYS, ids=" ".join)
def test_help_lists_the_common_keys_and_help_all_lists_every_key(capsys, command):
    common = keys_in(help_of(capsys, *command, "--help"))
    assert set(COMMON) <= common
    for section in ("stop", "evaluation", "checkpoint"):
        assert {key for key in KEYS if key.startswith(f"{section}.")} <= common
    assert len(common) < len(KEYS) / 2
    assert keys_in(help_of(capsys, *command, "--help-all")) == set(KEYS)


def test_a_key_is_listed_in_its_group_with_kind_default_and_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = help_of(capsys, "train", "--help-all").splitlines()
    batch = next(line for line in lines if "--learner.batch-size" in line)
    assert batch.split() == [
        *("--learner.batch-size", "N"),
        *["transitions", "per", "learner", "step", "(default:", "256)"],
    ]
    groups = [line for line in lines[: lines.index(batch)] if line and not line.startswith(" ")]
    assert groups[-1].startswith("learner – ")
    for shown in (
        "--network.hidden N …",
        "--network.kind mlp|nature-cnn|small-cnn|minatar-cnn|impala-cnn|notebook",
        "--learner.double true|false",
        "--learner.learning-rate X",
        "--env.kwargs TABLE",
        "--env.crop X …",
        "--replay.capacity TEXT",
        "(default: [128, 128])",
        "(default: none)",
    ):
        assert any(shown in line for line in lines), shown


def leaves():
    """Every command that does something, with the words in front."""
    for command in COMMANDS:
        for leaf in command.actions or (command,):
            yield leaf.parser("raydqn" + (f" {command.name}" if command.actions else ""))


@pytest.mark.parametrize("parser", list(leaves()), ids=lambda parser: parser.prog)
def test_every_argument_has_a_help_and_every_default_is_told(parser):
    for action in [*parser.options(), *parser.positionals()]:
        name = action.option_strings[-1] if action.option_strings else action.dest
        assert action.help, name
        optional = (action.option_strings and not action.required) or action.nargs == "?"
        takes_value = action.nargs != 0
        if optional and takes_value and name not in ("--config", "--address"):
            assert "(default: " in action.help, name
        if action.dest in ("run_folder", "run_folders"):
            assert action.help.startswith("folder of a run")
    if isinstance(parser.get_default("episodes"), int):
        assert f"(default: {parser.get_default('episodes')})" in parser.format_help()
    if isinstance(parser.get_default("every"), float):
        assert f"(default: {parser.get_default('every'):g}s)" in parser.format_help()


def test_a_resume_has_the_values_of_the_run_as_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for text in (help_of(capsys, "resume", "--help-all"), help_of(capsys, "set", "--help")):
        assert "config.toml" in text
        assert "without a preset" not in text
        options = text[text.index("Configuration keys") :]
        assert "(default:" not in options
    assert "Defaults are those without a preset" in help_of(capsys, "train", "--help")


OPTIONS = {
    "actors": {"env"},
    "replay": {"peers"},
    "train": {"env", "peers"},
    **{name: {"algorithm"} for name in ("cartpole", "cartpole-pixels", "pong")},
}
"""Options of single benchmarks."""


def test_every_benchmark_has_a_help_with_what_it_takes_alone(capsys):
    from deploy.bench.commands import BENCHMARKS, REPEATS
    from deploy.cli.bench import MEASURED, MORE

    assert set(MEASURED) == REPEATS.keys() == BENCHMARKS.keys()
    assert list(MEASURED) == sorted(MEASURED)
    listed = help_of(capsys, "bench", "--help")
    for name, count in REPEATS.items():
        assert f"    {name}" in listed
        text = help_of(capsys, "bench", name, "--help")
        assert f"(default: {count})" in " ".join(text.split())
        options = {option for option in ("algorithm", "env", "peers") if f"--{option} " in text}
        assert options == OPTIONS.get(name, set())
        parser = argparse.ArgumentParser(add_help=False)
        MORE.get(name, lambda parser: None)(parser)
        taken = {action.dest for action in parser._actions}
        assert {"repeat", *taken} == set(signature(BENCHMARKS[name]).parameters)


def test_the_status_of_a_study_has_a_help_of_its_own(capsys):
    text = help_of(capsys, "study", "status", "--help")
    assert text.startswith("usage: raydqn study status [-h] [--json] STUDY\n")
    assert "--retry-failed" not in text
    both = help_of(capsys, "study", "--help")
    assert "study status [--json] STUDY" in both
    assert "--retry-failed" in both


def test_help_on_set_lists_the_keys_that_can_be_changed_during_a_run(capsys):
    assert keys_in(help_of(capsys, "set", "--help")) == set(LIVE_KEYS)


@pytest.mark.parametrize("command", ["plot", "evaluate", "status", "bench", "presets", "cluster"])
def test_commands_without_keys_list_none(capsys, command):
    assert "onfiguration keys" not in help_of(capsys, command, "--help")


def test_the_help_names_every_command(capsys):
    text = help_of(capsys, "--help")
    for command in COMMANDS:
        assert f"    {command.name} " in text
        assert command.text in text


def test_keys_without_a_section_are_known_without_the_model():
    assert tuple(key for key in KEYS if "." not in key) == TOP_LEVEL_KEYS
    from common import config_sections

    assert config_sections.AUTO == AUTO


def test_an_option_in_front_of_the_command_is_explained(capsys):
    assert main(["--json", "train"]) == 2
    assert "write it after train" in capsys.readouterr().err

"""`raydqn completion SHELL`: real candidates from bash; from fish and zsh where they are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

from common.config_toml import KEYS
from deploy.bench.commands import BENCHMARKS
from deploy.cli.main import COMMANDS, main
from deploy.control.control_file import LIVE_KEYS
from deploy.launch.presets import preset_names

NAMES = {command.name for command in COMMANDS}
ALL_KEYS = {f"--{key.replace('_', '-')}" for key in KEYS}
CASES = [
    ("", NAMES),
    ("tr", {"train"}),
    ("train ", set(preset_names())),
    ("train cartpole-", {"cartpole-pixels", "cartpole-thrifty"}),
    ("train --inl", {"--inline"}),
    ("train cartpole --inline --learner.batch-", {"--learner.batch-size"}),
    ("resume some/run --seed 3 --see", {"--seed"}),
    ("train --learner.double ", {"true", "false"}),
    ("evaluate some/run --weights ", {"best", "latest"}),
    ("set some/run --learner.", {f"--{k.replace('_', '-')}" for k in LIVE_KEYS if "learner." in k}),
    ("bench s", {name for name in BENCHMARKS if name.startswith("s")}),
    ("config c", {"cartpole", "cartpole-pixels", "cartpole-thrifty"}),
    ("cluster ", {"check", "submit", "token"}),
    ("cluster submit --na", {"--name"}),
    ("cluster check file.yaml --network.k", {"--network.kind"}),
    ("plot --learner.b", set()),
    ("completion ", {"bash", "zsh", "fish"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """A file with the script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch, (folder / shell).open("w") as file:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
    return folder


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


def bash_candidates(script, line: str) -> set[str]:
    words = ["raydqn", *line.split(" ")]
    code = (
        f"compopt() {{ :; }}; source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); "
        f"COMP_CWORD={len(words) - 1}; _raydqn; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return set(run("bash", "--norc", "-c", code).split())


@pytest.mark.parametrize(("line", "candidates"), CASES)
def test_bash_completes(scripts, line, candidates):
    assert bash_candidates(scripts / "bash", line) == candidates


def test_bash_completes_a_value_behind_an_equals_sign(scripts):
    # For bash, `--network.kind=n` is three words.
    assert bash_candidates(scripts / "bash", "train --network.kind = n") == {
        *("nature-cnn", "notebook")
    }
    assert bash_candidates(scripts / "bash", "train --network.kind =") == {
        *("mlp", "nature-cnn", "small-cnn", "minatar-cnn", "impala-cnn", "notebook")
    }


def test_bash_completes_files_where_a_path_is_expected(scripts):
    for line in ("evaluate ", "train --config ", "plot --out "):
        assert bash_candidates(scripts / "bash", line) == set()
    assert "complete -o default -F _raydqn raydqn" in (scripts / "bash").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_knows_every_command_key_preset_and_benchmark(scripts, shell):
    text = (scripts / shell).read_text()
    options = ALL_KEYS if shell != "fish" else {f"-l {key[2:]} " for key in ALL_KEYS}
    for word in (*NAMES, *options, *preset_names(), *BENCHMARKS):
        assert word in text, word
    assert not re.search(r"@\w+@", text)  # no part of the template is left
    if shutil.which(shell):
        run(shell, "-n", str(scripts / shell))


@pytest.mark.parametrize(("line", "candidates"), CASES)
def test_fish_completes_the_same(scripts, line, candidates):
    if not shutil.which("fish"):
        return  # the text of the script is tested above
    code = (
        f"source {shlex.quote(str(scripts / 'fish'))}; complete -C {shlex.quote(f'raydqn {line}')}"
    )
    found = {row.partition("\t")[0] for row in run("fish", "--no-config", "-c", code).splitlines()}
    assert found == candidates

"""What the repository says of itself."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from deploy.bench.commands import BENCHMARKS
from deploy.cli.main import parse
from deploy.cli.overrides import split_overrides
from deploy.launch.presets import make_config, preset_names
from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    for target in targets:
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_one_that_the_program_takes(page):
    text = page.read_text().replace("\\\n", " ")  # continued lines
    # Lines of code blocks, fenced or indented, without their comments; and what nodes are told.
    commands = re.findall(r"^(?:    )?raydqn +(.+?)(?: &)?(?:  +#.*)?$", text, re.M)
    commands += re.findall(r"'raydqn +(.+?)'", text)
    commands += re.findall(r"python -m deploy +(.+)", text)
    for command in commands:
        words = [w.replace("…", "x") for w in command.split()]
        _, rest = split_overrides(words)
        parse(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page):
    """By its name, or by the beginning of it and `…`; a file with its suffix."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    tests = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    for named, more in re.findall(r"\b(test_\w+(?:\.py)?)(…?)", page.read_text()):
        if named.endswith(".py"):
            assert named in {file.name for file in files}, named
        else:
            assert named in tests or (more and any(t.startswith(named) for t in tests)), named


def test_the_page_on_commands_names_the_stop_conditions_of_each_preset():
    page = (ROOT / "docs" / "commands.md").read_text()
    for name in preset_names():
        config = make_config(name)
        stop = config.stop.model_dump(exclude_none=True)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        score = stop.pop("score", None)
        episodes = f"mean of {config.evaluation.episodes} greedy episodes"
        assert f" {'–' if score is None else f'{score:g}, {episodes}'} |" in row
        assert re.findall(r"`stop\.(\w+)` = ([\d,]+)", row) == [
            (key, f"{value:,.0f}") for key, value in stop.items()
        ]


def test_every_benchmark_is_quoted_in_the_results():
    results = (ROOT / "docs" / "results.md").read_text()
    for name in BENCHMARKS:
        assert re.search(rf"raydqn bench {re.escape(name)}(?![\w-])", results), name


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = PROJECT["dependencies"] + [line for extra in extras for line in extra]
    return [Requirement(line) for line in lines if not line.startswith("raydqn")]


def test_every_dependency_has_bounds_and_a_tested_version_within_them():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[name.lower().replace("_", "-")] = version
    for requirement in requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert {">=", "<"} <= operators, f"{requirement}: lower and upper bound"
        pin = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(pin), f"{requirement}: tested with {pin}"

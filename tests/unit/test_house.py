"""The rules of the house: sizes, what lies where, and words that the project no longer uses."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGES = ("common", "replay_server", "actors", "learner", "deploy")
FILE_LINES, TEST_LINES, FUNCTION_LINES, CLASS_METHODS = 400, 600, 60, 25


def tracked(*patterns: str) -> list[Path]:
    """Files of the checkout that match, those included that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module", autouse=True)
def in_a_checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project is not known")


SOURCES = [f"{package}/*.py" for package in PACKAGES]


@cache
def trees() -> dict[Path, ast.Module]:
    """The source files, parsed, by their paths in the project."""
    return {file.relative_to(ROOT): ast.parse(file.read_text()) for file in tracked(*SOURCES)}


def too_long(files: list[Path], limit: int) -> dict[str, int]:
    """Files of more lines than that."""
    lines = {str(file.relative_to(ROOT)): file.read_text().count("\n") for file in files}
    return {name: count for name, count in lines.items() if count > limit}


def test_no_file_is_too_long():
    assert too_long(tracked(*SOURCES), FILE_LINES) == {}
    assert too_long(tracked("tests/*.py"), TEST_LINES) == {}


def test_no_function_and_no_class_is_too_long():
    found = []
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append(f"{file}:{node.lineno} {node.name}: {lines} lines")
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(one, ast.FunctionDef) for one in node.body)
                if methods > CLASS_METHODS:
                    found.append(f"{file}:{node.lineno} {node.name}: {methods} methods")
    assert found == []


def test_deploy_holds_rooms_and_one_page_that_says_which_parts_exist():
    top = {path.name for path in tracked("deploy/*.py") if path.parent.name == "deploy"}
    assert top == {"__init__.py", "__main__.py", "program.py"}


def test_no_test_imports_another_test():
    found = [
        str(file.relative_to(ROOT))
        for file in tracked("tests/*.py")
        if re.search(r"^\s*(from|import) +(\w+\.)*test_\w+", file.read_text(), re.M)
    ]
    assert found == []


COUNTED = re.compile(
    r"\s+(\w+\s+)?(actors|bytes|checkpoints|copies|days|dimensions|documents|episodes|errors|events"
    r"|files|frames|groups|hours|inserts|items|learners|minutes|nodes|parts|pictures|pixels|reports"
    r"|requests|restarts|rows|runs|samples|seconds|seeds|shards|stacks|steps|times|transitions"
    r"|versions|warnings|workers)\b"
)
"""Words right behind a number that would be wrong behind a 1."""
NO_COUNT = re.compile(r"[A-Z_]+|.*ratio|.*samples_per_insert.*|url|.*\.part")
"""Constants greater than 1, figures that are hardly ever whole, and names in front of a verb."""


def test_a_count_in_a_message_agrees_with_its_noun():
    """`common.text.counted` writes both; a plural behind a number would also read "1 actors"."""
    found = []
    for file, tree in trees().items():
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for part, text in pairwise(parts):
                if not isinstance(part, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                value = ast.unparse(part.value)
                behind = COUNTED.match(str(text.value))
                if behind and "counted(" not in value and not NO_COUNT.fullmatch(value):
                    found.append(f"{file}:{part.lineno} {{{value}}}{behind[0]}")
    assert found == []


RETIRED = (
    r"seats?",
    r"crew",
    r"wish(es)?",
    r"whoever",
    r"somebody",
    r"nobody",
    r"everybody",
    r"homeless",
    r"signs? of life",
    r"distrust(s|ed)?",
    r"redeal",
    r"origins",
    r"cluster_runtime",
    r"VariableClient",
    r"begin_life",
)
"""Words that the glossary of docs/architecture.md replaces."""
SPEAKS_OF_THE_PAST = {
    "CHANGELOG.md",
    "tests/unit/test_house.py",
    "tests/support/runs/version-0.1/config.toml",
}


def test_retired_words_stay_retired():
    pattern = re.compile(rf"(?<![\w])({'|'.join(RETIRED)})(?![\w])", re.IGNORECASE)
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in tracked("*.py", "*.md", "*.toml", "*.yaml", "*.yml", "*.json", "*.ipynb")
        if str(file.relative_to(ROOT)) not in SPEAKS_OF_THE_PAST
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if pattern.search(line.replace("_", " "))
    ]
    assert found == []

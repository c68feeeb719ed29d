"""The documentation site's links and the workflows of GitHub Actions."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "link", "rewritten"),
    [
        ("docs", "[a](../deploy/program.py)", "[a](source:deploy/program.py)"),
        ("docs", "[a](../common)", "[a](source:common)"),
        ("docs", "[a](clusters.md#aws)", "[a](clusters.md#aws)"),
        ("docs", "[clusters.md](clusters.md)", "[](clusters.md)"),
        ("docs", "[a](#aws)", "[a](#aws)"),
        ("docs", "[a](https://www.ray.io/)", "[a](https://www.ray.io/)"),
        (".", "[Clusters](docs/clusters.md)", "[Clusters](clusters.md)"),
        (".", "![a](docs/run.png)", "![a](run.png)"),
        (".", "[a](CHANGELOG.md)", "[a](changelog.md)"),
        (".", "[a](examples/notebook.ipynb)", "[a](source:examples/notebook.ipynb)"),
        (".", "[a](not/there.md)", "[a](not/there.md)"),
    ],
)
def test_a_link_of_a_page_leads_to_a_page_or_to_the_source(conf, folder, link, rewritten):
    assert conf.rewrite_links(f"x {link}, y", ROOT / folder) == f"x {rewritten}, y"


def test_links_to_the_source_lead_to_github_in_github_actions(conf, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert conf.source_url() == "../../{{path}}"
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/raydqn")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_SHA", "abc")
    assert conf.source_url() == "https://github.com/me/raydqn/blob/abc/{{path}}"


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_commands_that_exist(workflow):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for step in steps(workflow):
        command = step.get("run", "")
        assert set(re.findall(r"\bmake ([\w-]+)", command)) <= targets, command
        for script in re.findall(r"(?<!\S)\.ci/[\w-]+", command):
            assert (ROOT / script).stat().st_mode & 0o111, command


def test_continuous_integration_tests_the_supported_versions_of_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r":: Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named

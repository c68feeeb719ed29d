"""What all tests share: order, groups, and skips that fail in continuous integration."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from support.hypothesis_profiles import load_profile
from support.paths import TESTS

load_profile()

TIERS = ("cluster", "e2e", "ray", "support", "simulation", "unit")
"""Folders of tests/, the one with the longest tests first."""
ONE_RAY = ("cluster", "ray")
"""Tiers in which the tests of a module share a Ray, or hosts: one process runs them."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: started last, one of them would keep the others waiting."""
    for item in items:
        if tier_of(item) in ONE_RAY or any("module" in scope for scope in scopes_of(item)):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: TIERS.index(tier_of(item)))


def tier_of(item: pytest.Item) -> str:
    """The folder of tests/ that the test lies in."""
    return item.path.relative_to(TESTS).parts[0]


def scopes_of(item: pytest.Item) -> list[str]:
    """Scopes of the fixtures that the test asks for."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return []
    return [definition.scope for found in info.name2fixturedefs.values() for definition in found]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration everything can run: a skip there hides a missing install step."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in continuous integration: {report.longrepr}"
    return report

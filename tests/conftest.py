"""What all tests share: their order, and skips that fail in continuous integration."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest

from support.paths import TESTS

TIERS = ("cluster", "e2e", "ray", "support", "simulation", "unit")
"""Folders of tests/, the one with the longest tests first."""


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile of Hypothesis in each process that imports tests."""
    hands_out_only = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out_only:
        from support.hypothesis_profiles import load_profile

        load_profile()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: started last, one of them would keep the others waiting."""
    items.sort(key=lambda item: TIERS.index(item.path.relative_to(TESTS).parts[0]))


def pytest_collection_finish() -> None:
    """Have the collector of garbage pass by all that is imported: a tenth of the CPU time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration everything can run: a skip there hides a missing install step."""
    report = yield
    if not hasattr(report, "wasxfail"):
        fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that skips itself as a whole, likewise."""
    report = yield
    fail_if_skipped(report)
    return report


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Have a skip fail in continuous integration."""
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in continuous integration: {report.longrepr}"

"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from support.hypothesis_profiles import load_profile

load_profile()

LONGEST = (
    *("test_on_hosts", "test_reliability", "test_program_ray", "test_chaos", "test_program_inline"),
    *("test_recovery", "test_supervisor", "test_backpressure", "test_bench_replay"),
)
"""Files that take minutes. Begun last, one of them would keep all other processes waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order: several files run at a time."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration everything can run: a skip there hides a missing install step."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in continuous integration: {report.longrepr}"
    return report

"""Fixtures of the tests of provisioning."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.clusters import make_home


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder of a machine on which nothing is missing; none of it is real."""
    return make_home(tmp_path / "home", monkeypatch)

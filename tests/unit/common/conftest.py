"""Fixtures of the tests of checkpoints."""

from __future__ import annotations

import pytest

from common.checkpoint import CheckpointStore
from common.storage import LocalStorage


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def store(folder):
    return CheckpointStore(LocalStorage(folder), keep=3)

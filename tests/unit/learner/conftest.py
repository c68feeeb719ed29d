"""Fixtures of the tests of the learner."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads_as_before():
    """The learner decides on torch's threads for its whole process: here, for all tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

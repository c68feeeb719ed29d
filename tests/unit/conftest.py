"""What the unit tests share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _one_thread_of_torch():
    """The networks are tiny: two threads would only wait for each other, for long on busy cores."""
    torch = sys.modules.get("torch")  # a test that needs none does not import it
    if torch is not None:
        torch.set_num_threads(1)

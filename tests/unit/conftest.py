"""What the unit tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread_of_torch():
    """The networks are tiny: two threads would only wait for each other, for long on busy cores."""
    import torch

    torch.set_num_threads(1)

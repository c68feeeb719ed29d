"""What the unit tests share."""

from __future__ import annotations

import functools
import os
import sys
from importlib import metadata

import pytest


@pytest.fixture(autouse=True)
def _one_thread_of_torch():
    """The networks are tiny: two threads would only wait for each other, for long on busy cores."""
    torch = sys.modules.get("torch")  # a test that needs none does not import it
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _no_file_waits_for_the_disk():
    """Only a power cut would show it; tests of what is synchronised put their own in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _what_is_installed_is_looked_up_once():
    """It stays as it is while tests run, and each look-up reads hundreds of files."""
    known = functools.cache(metadata.packages_distributions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "packages_distributions", known)
        yield

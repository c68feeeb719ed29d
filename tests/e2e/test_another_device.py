"""The learner on a device that is not the CPU; another_device.py holds the tests.

They have a process of their own: torch gets a device more in it, and keeps it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from support.paths import TESTS


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a torch that takes devices written in Python",
)
def test_a_learner_and_its_run_move_to_another_device_and_back():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(TESTS / "support" / "another_device.py")],
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr

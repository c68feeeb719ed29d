"""Output of `raydqn` that is read in part, or not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.paths import ROOT


@pytest.mark.parametrize(
    "command", ["train --help", "train --help-all", "--help", "config", "completion bash"]
)
def test_output_that_is_read_in_part_or_not_at_all_is_no_error(command):
    raydqn = f"{sys.executable} -m deploy {command}"
    for line, least in ((f"{raydqn} | head -1", 1), (f"{raydqn} | true", 0), (f"{raydqn} >&-", 0)):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, cwd=ROOT,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stderr)
        assert len(done.stdout.splitlines()) == least
        if not line.endswith(">&-"):  # argparse then prints help to standard error
            assert done.stderr == ""

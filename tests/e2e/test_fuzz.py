"""Hostile bytes found by a fuzzer that sees which branches they reach."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from support.paths import TESTS

SECONDS = 8
FUZZER = TESTS / "support" / "fuzz_wire.py"


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (make setup)")
def test_no_bytes_end_in_anything_but_a_message_or_a_wire_error(tmp_path):
    subprocess.run([sys.executable, FUZZER, "--seeds", tmp_path], check=True, timeout=240)
    options = (f"-max_total_time={SECONDS}", "-seed=1", "-max_len=4096")
    done = subprocess.run(
        [sys.executable, FUZZER, tmp_path, *options, f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (end,) = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    assert int(end.split()[1]) > 500, "it hardly ran"

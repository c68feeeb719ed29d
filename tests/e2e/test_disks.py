"""Disks that are full or cannot be written: no checkpoint on them is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT
from support.program import CALM, reports_in
from support.reliability import INLINE, ON_RAY


def in_a_small_place(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a file system of 120 kB of its own mounted on $PLACE."""
    place = tmp_path / "place"
    place.mkdir()
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"]).returncode:
        pytest.skip("needs mount namespaces (unshare)")
    return subprocess.run(
        [*enter, f'mount -t tmpfs -o size=120k tmpfs "$PLACE"; {script}'],
        env={"PLACE": str(place), "RUN": str(tmp_path / "run"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


CHECK = (
    "import sys; from common.checkpoint import *; from common.storage import *; "
    "s = CheckpointStore(open_storage(sys.argv[1]), 3); "
    "print([len([read_verified(s.storage, f, s.load(n).files) for f in s.load(n).files])"
    " for n in s.names()])"
)
"""Verifies every file of every checkpoint."""


def test_a_disk_that_is_full_and_then_read_only_costs_no_checkpoint_that_is_there(tmp_path):
    """First the run continues although checkpoints fail, then `checkpoint.on_failure` ends it."""
    options = " ".join(f"'{option}'" for option in INLINE)
    more = "--inline --stop.learner-steps 800 --checkpoint.on-failure stop"
    check = f'{sys.executable} -c "{CHECK}" "$PLACE/run"'
    done = in_a_small_place(
        f'{sys.executable} -m deploy train {options} --checkpoint.storage "$PLACE" '
        f'--run-dir "$RUN"; echo full: code $?; {check}; '
        # The newest whole checkpoint is of an earlier step: there is work left to do.
        f'mount -o remount,bind,ro "$PLACE"; {sys.executable} -m deploy resume "$RUN" {more}; '
        f"echo read-only: code $?; {check}",
        tmp_path,
    )
    said, lines = done.stdout + done.stderr, done.stdout.strip().splitlines()
    assert "checkpoint could not be written: [Errno 28] No space left on device" in said
    assert "Read-only file system" in said
    assert "full: code 1" in lines, said  # the last checkpoint could not be written either
    assert "read-only: code 1" in lines, said
    whole = [json.loads(line) for line in lines if line.startswith("[")]
    assert len(whole[0]) >= 1, said  # whole ones are left, all verified
    assert whole == [whole[0], whole[0]], "the second attempt takes nothing away"
    steps = [report["learner_steps"] for report in reports_in(tmp_path / "run")]
    assert 400 in steps, "it continued to its end although checkpoints failed"
    assert steps[-1] < 800, "the second attempt ended with the first checkpoint that failed"


def test_a_full_disk_on_ray_costs_no_checkpoint_that_is_there(tmp_path):
    more = ("--checkpoint.every-s", "0.5", "--stop.learner-steps", "200")
    options = " ".join(f"'{option}'" for option in (*ON_RAY, *CALM, *more))
    done = in_a_small_place(
        f'{sys.executable} -m deploy train {options} --checkpoint.storage "$PLACE" '
        f'--run-dir "$RUN"; echo code $?; {sys.executable} -c "{CHECK}" "$PLACE/run"',
        tmp_path,
    )
    said = done.stdout + done.stderr
    assert "checkpoint could not be written: [Errno 28] No space left on device" in said, said
    lines = done.stdout.strip().splitlines()
    assert len(json.loads(lines[-1])) >= 1, said  # whole ones are left, all verified
    assert "code 1" in lines  # the last one could not be written either
    assert reports_in(tmp_path / "run")[-1]["learner_steps"] == 200

"""Ports and tokens of a cluster: a wrong one gives an error of one line, at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.paths import ROOT
from support.program import environment_without_ray
from support.ray_ports import CLIENTS, CONTROL, one_port

WITH_TOKEN = """
import ray, sys
from deploy.runtime.connect import connect
from common.errors import UserError
ray.init = lambda **_: print("let in", file=sys.__stdout__)
for address in sys.argv[1:]:
    try:
        connect(address)
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(("token", "refused"), [("t" * 64, False), ("f" * 64, True), (None, True)])
def test_a_wrong_token_and_a_wrong_port_are_told_at_once(tmp_path, token, refused):
    # In a process of its own: Ray looks for a token once.
    env = environment_without_ray() | {
        "RAY_AUTH_MODE": "token",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    env |= {"RAY_AUTH_TOKEN": token} if token else {}
    with one_port(CLIENTS) as clients, one_port(CONTROL) as control:
        right, wrong = [f"ray://{clients}", control], [clients, f"ray://{control}"]
        said = subprocess.run(
            [sys.executable, "-c", WITH_TOKEN, *right, *wrong],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    for address, line in zip(right, said[:2], strict=True):
        if refused:
            assert line.startswith(f"--address={address}: refused: "), line
            assert "put its own into ~/.ray/auth_token" in line
        else:
            assert line == "let in"
    if token:
        assert said[2:] == [
            f"--address={clients}: that port is for addresses with ray://, as ray://{clients}",
            f"--address=ray://{control}: that port is for addresses without ray://, as {control}",
        ]

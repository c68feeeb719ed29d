"""Lines that compiled code writes to standard error."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

RAY_LINE = "[2026-11-30 10:57:43,282 E 32092 32290] rpc_client.h:204: Failed to connect to GCS"
IN_BLOCK = f"""
import os, signal, subprocess, sys
from deploy.runtime.quiet import be_command, without_native_lines
RAY_LINE = {RAY_LINE!r}
"""


def errors_of(code: str, command: bool = True, **more: str) -> list[str]:
    """Lines on standard error of a program with this code."""
    start = IN_BLOCK + ("be_command()\n" if command else "")
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **more},
    )
    return done.stderr.splitlines()


def test_raw_lines_of_ray_are_left_out_and_all_others_reach_the_user():
    lines = errors_of("""
        import logging
        with without_native_lines():
            os.write(2, f"{RAY_LINE}\\n".encode())
            os.write(2, f"\\x1b[36m(raylet)\\x1b[0m {RAY_LINE}\\n".encode())
            print("raydqn: failed: a message", file=sys.stderr)
            logging.warning("a warning")
            subprocess.run(["sh", "-c", "echo of a child >&2"])
            os.write(2, b"no end")
        os.write(2, b"\\n")
        logging.warning("afterwards")
        os.write(2, f"{RAY_LINE}\\n".encode())
    """)
    # Python's own lines take no way through the filter: their place among the others is open.
    expected = ["raydqn: failed: a message", "WARNING:root:a warning", "of a child", "no end"]
    assert sorted(lines) == sorted([*expected, "WARNING:root:afterwards", RAY_LINE])


def test_the_filter_passes_on_its_last_lines_before_children_are_killed():
    lines = errors_of("""
        from deploy.runtime.children import end_children
        with without_native_lines():
            os.write(2, b"the last\\n")
        end_children()
    """)
    assert lines == ["the last"]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("os._exit(1)", ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
        ("import faulthandler; faulthandler.enable(); os.abort()", "Fatal Python error: Aborted"),
    ],
)
def test_rays_last_lines_tell_why_a_process_ended_within_the_block(end, says):
    lines = errors_of(f"""
        with without_native_lines():
            for number in range(30):
                os.write(2, f"{{RAY_LINE}} {{number}}\\n".encode())
            {end}
    """)
    assert [line for line in lines if line.startswith("[2026")] == [
        f"{RAY_LINE} {number}" for number in range(10, 30)
    ]
    assert says in "\n".join(lines)


def test_an_error_in_the_block_is_seen_and_restores_standard_error():
    lines = errors_of("""
        try:
            with without_native_lines():
                raise ZeroDivisionError
        finally:
            os.write(2, f"{RAY_LINE}\\n".encode())
    """)
    assert lines[0] == RAY_LINE
    assert lines[-1] == "ZeroDivisionError"


def test_the_signals_of_a_terminal_do_not_end_the_filter():
    lines = errors_of("""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setpgrp()
        with without_native_lines():
            os.killpg(0, signal.SIGINT)
            os.write(2, b"still here\\n")
    """)
    assert lines == ["still here"]


def test_a_program_that_uses_the_python_api_is_left_alone():
    lines = errors_of(
        """
        with without_native_lines():
            os.write(2, f"{RAY_LINE}\\n".encode())
        """,
        command=False,
    )
    assert lines == [RAY_LINE]

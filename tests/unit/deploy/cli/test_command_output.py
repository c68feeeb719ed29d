"""Output that cannot be written as it is, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.paths import ROOT

CODE = """
import sys
from deploy.cli.output import command_streams, outlast_output
from common.errors import UserError
with command_streams():
    {begin}
    try:
        print("ε = 0.1 – 84×84 ± 2 … █ 実 \\udcff")
        sys.stdout.flush()
        print("second line")
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {{error}}", file=sys.stderr)
"""
RUN, COMMAND = "outlast_output()", "pass"


def output_of(begin, stdout=subprocess.PIPE, shell="", **environment):
    """Exit code, standard output and error of a program that prints."""
    code = CODE.format(begin=begin)
    command = [sys.executable, "-c", code]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, check=False, cwd=ROOT, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_letters_that_an_encoding_lacks_are_written_in_others(encoding):
    code, out, err = output_of(RUN, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, "")
    first, second = out.decode(encoding).splitlines()
    assert second == "second line"
    assert first.endswith("\\udcff"), "half of a pair is in no encoding"
    if encoding == "ascii":
        assert first == r"epsilon = 0.1 - 84x84 +- 2 ... # \u5b9f \udcff"
    if encoding == "latin-1":
        assert first.startswith("epsilon = 0.1 - 84×84 ± 2 ... #")


@pytest.mark.parametrize("shell", ["> /dev/full", ">&-"])
def test_a_run_outlasts_output_that_cannot_be_written(shell):
    code, _, err = output_of(RUN, shell=shell)
    assert code == 0
    lines = err.splitlines()
    if shell == ">&-":
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith("raydqn: standard output cannot be written (No space left on devi")


def test_another_command_ends_in_one_line():
    code, _, err = output_of(COMMAND, shell="> /dev/full")
    assert code == 0
    assert err == "error: standard output cannot be written (No space left on device)\n"


def test_a_run_outlasts_the_reader_of_a_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = output_of(RUN, stdout=writer)
    os.close(writer)
    assert (code, err) == (0, "")

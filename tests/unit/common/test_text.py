"""Words of messages."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from common.text import counted, printable, shell_command


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "learner", "0 learners"),
        (1, "actor", "1 actor"),
        (2, "actor", "2 actors"),
        (1_000, "env step", "1,000 env steps"),
        (1.0, "GPU", "1 GPU"),
        (0.5, "CPU", "0.5 CPUs"),
        (1.5, "second", "1.5 seconds"),
        (np.int64(2_000_000), "step", "2,000,000 steps"),
        (3e6, "step", "3,000,000 steps"),
    ],
)
def test_a_number_and_its_noun_agree(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("runs/cartpole – ε = 0.1 …", "runs/cartpole – ε = 0.1 …"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202egnp", "\\u202egnp"),
        ("\udc80", "\\udc80"),
        (3, "3"),
        ("実験\u30001 👩\u200d💻 a\u00a0b", "実験\u30001 👩\u200d💻 a\u00a0b"),
        ("\u2028\x85", "\\u2028\\x85"),
    ],
)
def test_a_name_is_shown_in_one_line_without_characters_that_a_terminal_obeys(given, shown):
    assert printable(given) == shown


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "two words",
        "it's",
        "a b'c\"d\ne\x1b[31mf\\",
        "実験\u30001",
        "\u202eε\u2028",
        "\udcff",
    ],
)
def test_a_command_can_be_pasted_and_is_one_line(word):
    command = shell_command(["printf", "%s", word])
    assert command == printable(command)
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")

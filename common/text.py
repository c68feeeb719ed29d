"""Words of messages: a number with its noun, and names that hold any character."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """`1 learner step`, `2 learner steps`, `1,000 bytes`, `0.5 CPUs`.

    Args:
        number: of things; one that is not whole is plural.
        noun: in the singular; its plural ends in `s`.
    """
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def printable(text: object) -> str:
    """The text in one line, with escapes for line breaks and all that a terminal would obey.

    Names of runs, files, keys and environments come from files and commands of any kind.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )

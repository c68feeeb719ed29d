"""Words of messages: a number with its noun."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """`1 learner step`, `2 learner steps`, `1,000 bytes`, `0.5 CPUs`.

    Args:
        number: of things; one that is not whole is plural.
        noun: in the singular; its plural ends in `s`.
    """
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"

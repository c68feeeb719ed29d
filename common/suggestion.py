"""`; did you mean …?` in messages about an unknown word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import SequenceMatcher

MAX_LETTERS = 100
"""Of a word that is compared at all."""
LEAST_RATIO = 0.65
"""Least similarity of two words (`difflib`), from 0 to 1."""


def suggest(word: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """`; did you mean X?` if `closest` finds a known word, else nothing.

    Args:
        word: the unknown one.
        known: all that could be meant.
        shown: how the known word is written in the message.
    """
    near = closest(word, known)
    return f"; did you mean {shown(near)}?" if near is not None else ""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs from `word` by a slip only; None if there is none.

    The parts of a key, such as `learner.batch_size`, are compared one by one. A key whose name
    exists in one other section only is taken to mean that one.
    """
    if len(word) > MAX_LETTERS:
        return None
    known = list(known)
    parts = _parts(word)
    rated = [(_similarity(parts, _parts(candidate)), candidate) for candidate in known]
    best, near = max(rated, default=(0.0, ""))  # of equal ones the later version: CartPole-v1
    if best > 0:
        return near
    same_name = [candidate for candidate in known if _parts(candidate)[-1] == parts[-1]]
    return same_name[0] if len(same_name) == 1 and len(parts) <= 2 else None


def _parts(word: str) -> list[str]:
    """`--Learner.batch-size` → `learner`, `batch_size`."""
    return word.lower().lstrip("-").replace("-", "_").split(".")


def _similarity(one: list[str], other: list[str]) -> float:
    """Mean similarity of the parts; 0 if one pair is not alike."""
    if len(one) != len(other):
        return 0.0
    ratios = [_ratio(a, b) for a, b in zip(one, other, strict=True)]
    return sum(ratios) / len(ratios) if all(ratios) else 0.0


def _ratio(a: str, b: str) -> float:
    """Similarity of two words; 0 if they differ by more than a slip."""
    if a == b:
        return 1.0
    longest = max(len(a), len(b))
    slips = 0 if longest < 3 else 1 if longest < 5 else 2 if longest < 10 else 3
    ratio = SequenceMatcher(None, a, b, autojunk=False).ratio()
    return ratio if ratio >= LEAST_RATIO and edits(a, b) <= slips else 0.0


def edits(a: str, b: str) -> int:
    """Number of letters to insert, delete, replace or swap with their neighbour.

    The restricted Damerau–Levenshtein distance (optimal string alignment).
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]

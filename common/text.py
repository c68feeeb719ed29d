"""Words of messages: a number with its noun, and names that hold any character."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable

OBEYED = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of pairs, separators of lines."""
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of the text around."""


def counted(number: float, noun: str) -> str:
    """`1 learner step`, `2 learner steps`, `1,000 bytes`, `0.5 CPUs`.

    Args:
        number: of things; one that is not whole is plural.
        noun: in the singular; its plural ends in `s`.
    """
    is_whole = float(number).is_integer()
    shown = f"{int(number):,}" if is_whole else f"{number:,g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def printable(text: object) -> str:
    """The text in one line, with escapes for line breaks and all that a terminal would obey.

    Names of runs, files, keys and environments come from files and commands of any kind.
    """
    return "".join(
        letter.encode("unicode_escape").decode() if _is_obeyed(letter) else letter
        for letter in str(text)
    )


def shell_command(words: Iterable[str]) -> str:
    """A command in one line that can be pasted into a shell, whatever its words hold."""
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if not any(map(_is_obeyed, word)):
        return shlex.quote(word)
    # $'…' is understood by bash, zsh and ksh. Bytes that are no text come back as they are.
    return "$'" + "".join(map(_in_dollar_quotes, word)) + "'"


def _in_dollar_quotes(letter: str) -> str:
    if letter in "'\\":
        return "\\" + letter
    if not _is_obeyed(letter):
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def _is_obeyed(letter: str) -> bool:
    return unicodedata.category(letter) in OBEYED or letter in DIRECTIONS

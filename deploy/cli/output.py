"""Standard output and error of a command: of any encoding, and on a disk that may be full."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from common.errors import UserError

PLAIN = {
    "ε": "epsilon", "γ": "gamma", "α": "alpha", "β": "beta", "δ": "delta", "λ": "lambda",
    "π": "pi", "τ": "tau", "Σ": "sum", "θ": "theta", "–": "-", "—": "-", "−": "-", "×": "x",
    "±": "+-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "÷": "/", "·": "*", "’": "'",
    "“": '"', "”": '"', "█": "#", "░": ".", "∞": "infinity", "²": "^2", "\u00a0": " ",
}  # fmt: skip
"""What is written in place of letters that an encoding lacks; of others, their escape."""
ERRORS = "raydqn"
STANDARD_ERROR = "standard error"


class CommandStream:
    """Standard output or error of a command.

    Attributes:
        lasting: a write that fails ends nothing, and the rest of the output is lost. Otherwise it
            ends the command in one line.
    """

    def __init__(self, original: TextIO, name: str) -> None:
        """Write to the stream that the process has; `name` is used in messages."""
        self.original = original
        self.lasting = name == STANDARD_ERROR  # it has no other place to go
        self._name = name

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return self.original.write(text)
        except (OSError, ValueError) as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self.original.flush()
        except (OSError, ValueError) as error:
            self._fail(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def _fail(self, error: Exception) -> None:
        if not self.lasting and isinstance(error, BrokenPipeError):
            raise error  # its reader has ended: `| head`
        # What is in the buffer still would fail again, at the latest when the interpreter ends.
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), self.original.fileno())
        if isinstance(error, BrokenPipeError):
            return
        reason = getattr(error, "strerror", None) or error
        if not self.lasting:
            raise UserError(f"{self._name} cannot be written ({reason})") from None
        if self._name != STANDARD_ERROR:
            print(
                f"raydqn: {self._name} cannot be written ({reason}); the run continues, and its "
                "log has all messages",
                file=sys.stderr,
            )


@contextmanager
def command_streams() -> Iterator[None]:
    """Standard output and error of a command within the block."""
    before = sys.stdout, sys.stderr
    codecs.register_error(ERRORS, _in_plain_letters)
    sys.stdout, sys.stderr = (
        cast(TextIO, CommandStream(_encodable(stream), name))
        for stream, name in zip(before, ("standard output", STANDARD_ERROR), strict=True)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def outlast_output() -> None:
    """From now on output that cannot be written ends nothing: a run has begun."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, CommandStream):
            stream.lasting = True


def _encodable(stream: TextIO | None) -> TextIO:
    """The stream, which now takes every letter; a file that keeps nothing if it is closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors=ERRORS)  # noqa: PTH123 # to the end
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        with suppress(ValueError, OSError):
            reconfigure(errors=ERRORS)
    return stream


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    plain = "".join(
        PLAIN.get(letter, letter.encode("ascii", "backslashreplace").decode()) for letter in lost
    )
    return plain, error.end

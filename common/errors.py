"""Every error of the project's own, in one tree; each message names the value and its remedy."""

from __future__ import annotations

import re

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""An escape sequence that changes a terminal's colour."""


class UserError(Exception):
    """A mistake in a configuration, a command or a file of the user's.

    The command line prints it as one line, without a traceback, and exits with code 2.
    """


class RunFinishedError(UserError):
    """A run has reached one of its stop conditions: there is nothing to resume.

    Attributes:
        stop_reason: the condition, as in a summary.
    """

    def __init__(self, message: str, stop_reason: str) -> None:
        super().__init__(message, stop_reason)
        self.stop_reason = stop_reason

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(UserError):
    """A checkpoint that is missing, cut off or corrupt.

    Attributes:
        file: name of the bad file in its storage, as far as the error is about one; other
            checkpoints may need the same file.
    """

    def __init__(self, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.file = file


class UnreadableError(CheckpointError):
    """The storage of a checkpoint cannot be read now; the checkpoint itself may be sound."""


class EnvironmentFailedError(Exception):
    """An environment raised an error.

    Attributes:
        trace: the frames of the environment's own code, as a traceback shows them.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message, trace)  # both, so that the error survives pickling
        self.trace = trace

    def __str__(self) -> str:
        return str(self.args[0])


class RemoteDiedError(Exception):
    """The process at the far end of a handle is gone, and with it the result of the call.

    The error travels: a part whose own call to another part fails passes it on, and the caller
    learns from `part` which process died.

    Attributes:
        part: name of the part that died.
        reason: the cause, as far as it is known.
        machine: the machine is gone, not the process alone.
        detail: everything that Ray says about the death, in several lines; empty: nothing more.
    """

    def __init__(self, part: str, reason: str, machine: bool = False, detail: str = "") -> None:
        super().__init__(part, reason, machine, detail)  # all, so that the error survives pickling
        self.part = part
        self.reason = reason
        self.machine = machine
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.part} died ({self.reason})"


class UnresponsiveError(Exception):
    """A part sent no heartbeat, or no result of a call, within its deadline."""


class RunFailedError(Exception):
    """The run cannot continue; the message says why."""


class StalledError(RunFailedError):
    """No transition was inserted and no sample drawn for too long."""


class DivergedError(RunFailedError):
    """Training diverged: the learner's state is not worth saving."""


class StorageError(OSError):
    """A storage that does not answer, refuses, or is full."""


class WireError(ValueError):
    """Bytes that `common.wire.encode` did not write, or that were changed since."""


class UnknownFramesError(ValueError):
    """A chunk reuses frames of an earlier chunk that the table lacks, or has evicted."""


class EmptyMemoryError(ValueError):
    """No reachable shard holds an item to sample."""


class StillSavingError(Exception):
    """The previous save of a shard is still in progress, because its storage is slow."""


def without_colours(text: str) -> str:
    """The text without escape sequences for a terminal's colours."""
    return COLOUR.sub("", text)


def one_line(error: BaseException) -> str:
    """The line of an error that names the cause, for a message of one line.

    This is the last line that is not empty, as in a traceback; the errors of a remote's end count
    as a whole. An error without text gives its class name. Colours are removed.
    """
    lines = _lines(error)
    if isinstance(error, (RemoteDiedError, UnresponsiveError)):
        return " ".join(lines) or type(error).__name__
    return lines[-1] if lines else type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error that is not empty, without colours; else its class name.

    Right where the first line is the message and the rest explains it, as with Ray's own errors.
    """
    lines = _lines(error)
    return lines[0] if lines else type(error).__name__


def shorten(text: object, limit: int = 160) -> str:
    """The text in one line of at most `limit` characters; "…" replaces what is cut off."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _lines(error: BaseException) -> list[str]:
    lines = without_colours(str(error)).splitlines()
    return [line.strip() for line in lines if line.strip()]

"""Exit codes of `raydqn`."""

FAILURE = 1
"""A run or an environment failed."""
USER_ERROR = 2
"""A mistake in a command, a configuration or a file."""
TRY_AGAIN = 75
"""With `train --resume-if-exists`: a signal stopped the run, and the same command continues it."""
INTERRUPTED = 130
"""Stopped by a second Ctrl-C."""

"""Exit codes of `raydqn`."""

FAILURE = 1
"""A run or an environment failed."""
USER_ERROR = 2
"""A mistake in a command, a configuration or a file."""
TRIALS_FAILED = 3
"""A study is over, and some of its trials failed."""
TRY_AGAIN = 75
"""With `train --resume-if-exists`, and `study`: a signal stopped it; the same command continues."""
INTERRUPTED = 130
"""Stopped by a second Ctrl-C."""

"""Exit codes of `raydqn`."""

FAILURE = 1
"""A run or an environment failed."""
USER_ERROR = 2
"""A mistake in a command, a configuration or a file."""
INTERRUPTED = 130
"""Stopped by a second Ctrl-C."""

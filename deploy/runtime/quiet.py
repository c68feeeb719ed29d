"""Silence for code of Ray's that prints and logs."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

AUTOSCALER_LOGGER = "ray.autoscaler"


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of Ray within the block; its exceptions tell all that counts.

    That covers Python's standard output and error, the file descriptor of standard error, which
    Ray's compiled code writes to, and the logger of Ray's autoscaler.
    """
    sys.stderr.flush()
    logger = logging.getLogger(AUTOSCALER_LOGGER)
    level, before = logger.level, os.dup(2)
    logger.setLevel(logging.CRITICAL)
    output = io.StringIO()
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        logger.setLevel(level)

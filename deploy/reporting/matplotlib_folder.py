"""matplotlib's folder where the home folder cannot be written."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "MPLCONFIGDIR"


def use_writable_folder() -> None:
    """Give matplotlib a temporary folder if it has none; to be called before its import.

    Otherwise it prints three lines about that.
    """
    if VARIABLE in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "matplotlib"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        pass
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix="raydqn-matplotlib-")
    atexit.register(shutil.rmtree, os.environ[VARIABLE], ignore_errors=True)

"""Folders of the project."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent


def import_path(*folders: Path) -> str:
    """A PYTHONPATH on which remotes find the project, `support`, and the modules of `folders`."""
    return os.pathsep.join(str(folder) for folder in (ROOT, TESTS, *folders))

"""The folder of Ray's sockets, logs and session files on this machine, for its user alone.

Ray gives all users of a machine the right to write into its folders: another user could put a
socket of its own in the place of the raylet's. So Ray's folder lies in one that no other user can
enter.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from common.version import PACKAGES

SOCKET_BYTES = 107
"""Largest length of a socket's path."""
OF_RAY = "/ray/session_2026-11-30_11-34-05_314631_1234567/sockets/plasma_store"
"""The longest socket below the user's folder."""
SHORT = Path("/tmp")


def private_temp_folder() -> Path:
    """Ray's folder below the user's own, `raydqn-UID`, which other users cannot enter.

    It lies in `RAY_TMPDIR`, `TMPDIR` or `/tmp`; in `/tmp` where the path of the first two is too
    long for a socket.

    Raises:
        OSError: no such folder can be made.
    """
    name = f"raydqn-{os.geteuid()}"
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / name
    if len(os.fsencode(folder)) + len(OF_RAY) > SOCKET_BYTES:
        folder = SHORT / name
    if not _is_private(folder):  # another user has made it
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SHORT))
    return folder / "ray"


def package_links(folder: Path) -> Path:
    """A folder with links to raydqn's packages and nothing else, for the front of `sys.path`.

    Args:
        folder: Ray's, of `private_temp_folder`.

    Raises:
        OSError: it cannot be made.
    """
    root = Path(__file__).resolve().parents[2]
    of_root = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    links = folder.parent / f"packages-{of_root}"
    links.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in PACKAGES:
        with suppress(FileExistsError):
            (links / name).symlink_to(root / name)
    return links


def _is_private(folder: Path) -> bool:
    """Make the folder, or look whether it is this user's own; then no other user may enter it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return True

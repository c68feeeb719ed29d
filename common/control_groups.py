"""The control groups that this process is in: a container's limits stand in their folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
"""Names this process's groups."""
CGROUP = Path("/sys/fs/cgroup")
"""Where groups are mounted."""


def group_folders(
    controller: str, own: Path = OWN_GROUPS, mount: Path = CGROUP
) -> Iterator[tuple[Path, bool]]:
    """Folders of the groups that this process is in, outermost first; they need not be there.

    Args:
        controller: such as `memory`.
        own: the file that names the groups.
        mount: where groups are mounted.

    Yields:
        A folder, and whether it is of version 2 of control groups.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", f"0:{controller}:/", *lines]:  # in a container the root is its own group
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "-", "")
        if controllers == "":
            roots = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            roots = [mount / name for name in dict.fromkeys((controller, controllers))]
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for root in roots:
            for depth in range(len(parts) + 1):
                yield root.joinpath(*parts[:depth]), controllers == ""

"""What code the nodes of a cluster are given: ours, and that of a user's environment."""

from __future__ import annotations

import re
import sysconfig
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from deploy import PACKAGES


def code_for(env_id: str) -> list[Path]:
    """Folders and files that nodes import in the state in which they are here.

    Args:
        env_id: of the environment, `module:Id` if a module brings it.
    """
    root = Path(__file__).parent.parent
    ours = [root / name for name in PACKAGES]
    own = _find(module_of(env_id))
    return ours if own is None or own in ours else [*ours, own]


def module_of(env_id: str) -> str:
    """What must be imported for an environment, without what lies within; empty: nothing."""
    return env_id.rpartition(":")[0].partition(".")[0]


def must_be_installed(env_id: str) -> str | None:
    """The module of an environment that nodes can only have if they install it.

    It is installed here, or not here at all. None: it is shipped, or comes with raydqn.
    """
    module = module_of(env_id)
    if not module or _find(module) is not None:
        return None
    names = {name.lower() for name in metadata.packages_distributions().get(module, ())}
    return None if names & _dependencies() else module


def _dependencies() -> set[str]:
    """Packages that come with raydqn, extras included."""
    try:
        wanted = metadata.requires("raydqn") or []
    except metadata.PackageNotFoundError:
        return set()
    return {re.split(r"[^\w.-]", name, maxsplit=1)[0].lower() for name in wanted}


def _find(module: str) -> Path | None:
    """Where a module lies that is somebody's own; None: it is installed, or there is none."""
    try:
        found = find_spec(module) if module else None
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    folders = list(found.submodule_search_locations or ())
    place = folders[0] if folders else found.origin
    if place is None or not Path(place).exists():  # built in, or in an archive
        return None
    libraries = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = {Path(sysconfig.get_path(library)).resolve() for library in libraries}
    if any(Path(place).resolve().is_relative_to(folder) for folder in installed):
        return None
    return Path(place)

"""The code that the nodes of a cluster are given: ours, and modules of the user's."""

from __future__ import annotations

import re
import sysconfig
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from common.config import Config
from common.network_shapes import is_own
from common.version import PACKAGES

EXTRAS_OF_NODES = ("atari", "fast", "minatar")
"""Which of pyproject.toml the cluster files install everywhere."""
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of what pip or the system installed."""


def code_for(config: Config) -> list[Path]:
    """Folders and files that nodes are to import, as they are here."""
    root = Path(__file__).parents[2]
    places = [root / name for name in PACKAGES]
    for _, name in named_code(config):
        own = _find(module_of(name))
        if own is not None and own not in places:
            places.append(own)
    return places


def named_code(config: Config) -> list[tuple[str, str]]:
    """Keys that can name a user's module, each with its value."""
    keys = [("env.id", config.env.id)]
    keys += [("env.wrappers", wrapper) for wrapper in config.env.wrappers]
    if is_own(config.network.kind):
        keys.append(("network.kind", config.network.kind))
    return keys


def module_of(env_id: str) -> str:
    """What must be imported for an environment, without what lies within; empty: nothing."""
    return env_id.rpartition(":")[0].partition(".")[0]


def comes_with_raydqn(module: str) -> bool:
    """Whether every node has a module: it is ours, or of a package that we need."""
    names = {name.lower() for name in metadata.packages_distributions().get(module, ())}
    return module in PACKAGES or bool(names & _dependencies())


def travels(module: str) -> bool:
    """Whether a module is shipped with a run: it lies here, and is not installed."""
    return _find(module) is not None


def is_here(module: str) -> bool:
    """Whether Python finds a module here."""
    return _spec(module) is not None


def _spec(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module) if module else None
    except (ImportError, ValueError):
        return None


def _dependencies() -> set[str]:
    """Packages that nodes have: what raydqn needs, and what their setup adds."""
    try:
        wanted = metadata.requires("raydqn") or []
    except metadata.PackageNotFoundError:
        return set()
    extra = re.compile("extra *== *['\"](.*?)['\"]")
    there = [line for line in wanted if not (m := extra.search(line)) or m[1] in EXTRAS_OF_NODES]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in there}


def _find(module: str) -> Path | None:
    """Location of a user's own module; None: it is installed, or there is none."""
    found = _spec(module)
    if found is None:
        return None
    folders = list(found.submodule_search_locations or ())
    place = folders[0] if folders else found.origin
    if place is None or not Path(place).exists():  # built in, or in an archive
        return None
    path = Path(place).resolve()
    if INSTALLED & set(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib")):
        return None
    return Path(place)

"""Memory and time that a trial copy of an environment takes."""

from __future__ import annotations

import importlib
import time
from contextlib import suppress

import psutil
from gymnasium.envs.registration import load_env_creator

from actors.environments.atari import is_atari
from actors.environments.minatar import import_package, is_vectorised
from actors.environments.process_state import apart
from actors.environments.registry import find_registered
from common.config_sections import EnvConfig
from common.types import TrialCost


class Trial:
    """Measures from its own creation on; modules of the environment are imported before."""

    def __init__(self, config: EnvConfig) -> None:
        """Begin to measure.

        Args:
            config: of the environment that will be made.

        Raises:
            UserError: no such environment is registered.
        """
        _import_modules(config)
        self._bytes, self._from_s = _bytes_taken(), time.monotonic()

    def cost(self) -> TrialCost:
        """Memory and time since then; a copy that exists now counts with its own processes."""
        seconds = time.monotonic() - self._from_s
        return TrialCost(max(0, _bytes_taken() - self._bytes), seconds)


def _import_modules(config: EnvConfig) -> None:
    """Import the environment's modules, which all copies of a process share."""
    if config.backend == "envpool":
        with suppress(ImportError), apart():
            importlib.import_module("envpool")
        return
    if is_atari(config.id):
        with suppress(ImportError):
            importlib.import_module("ale_py.vector_env")
        return
    spec = find_registered(config.id)
    if is_vectorised(spec, config):
        return
    import_package(spec)
    entry_point = spec.entry_point
    if isinstance(entry_point, str):
        with suppress(Exception, SystemExit), apart():  # the constructor will tell
            load_env_creator(entry_point)


def _bytes_taken() -> int:
    """Memory of this process and those below it that they do not share with other processes."""
    process = psutil.Process()
    memory = process.memory_info()
    # On Linux "shared" are maps of files and shared memory: other processes read the same.
    taken = int(memory.rss - getattr(memory, "shared", 0))
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            taken += int(child.memory_full_info().uss)
    return taken

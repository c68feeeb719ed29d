"""What a trial copy of an environment takes: memory and time."""

from __future__ import annotations

import importlib
import time
from contextlib import suppress

import psutil
from gymnasium.envs.registration import load_env_creator

from actors.environments.atari import is_atari
from actors.environments.process_state import apart
from actors.environments.registry import find_registered
from common.config_sections import EnvConfig
from common.types import TrialCost


class Trial:
    """Measures from its own creation on; modules of the environment are imported before."""

    def __init__(self, config: EnvConfig) -> None:
        """Begin.

        Args:
            config: of the environment that will be made.

        Raises:
            UserError: no such environment is registered.
        """
        _import_modules(config)
        self._bytes, self._from_s = _bytes_taken(), time.monotonic()

    def cost(self) -> TrialCost:
        """What has been taken since; a copy that exists now is counted with its own processes."""
        seconds = time.monotonic() - self._from_s
        return TrialCost(max(0, _bytes_taken() - self._bytes), seconds)


def _import_modules(config: EnvConfig) -> None:
    """All copies of a process share these."""
    if is_atari(config.id):
        with suppress(ImportError):
            importlib.import_module("ale_py.vector_env")
        return
    entry_point = find_registered(config.id).entry_point
    if isinstance(entry_point, str):
        with suppress(Exception, SystemExit), apart():  # the constructor will tell
            load_env_creator(entry_point)


def _bytes_taken() -> int:
    """Memory of this process, and what those below it do not share with another one."""
    process = psutil.Process()
    taken = int(process.memory_info().rss)
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            taken += int(child.memory_full_info().uss)
    return taken

"""Gymnasium's registry: from an id to the registered environment."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import gymnasium as gym

from actors.environments.environment import first_line, taken_package
from actors.environments.minatar import PREFIX as MINATAR
from actors.environments.minatar import register_minatar
from actors.environments.process_state import apart
from common.errors import UserError
from common.suggestion import suggest


def find_registered(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered environment of an id; imports `module` of "module:Id" first.

    Raises:
        UserError: no environment of this id, or a module or package that cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_users_module(module, f"env.id={env_id}")
    if name.startswith(MINATAR):
        register_minatar(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice that a newer version exists
            return gym.spec(name)
    except gym.error.Error:
        package = module.partition(".")[0]
        own = [known for known, spec in gym.registry.items() if _package_of(spec) == package]
        found = suggest(name, own, shown=lambda near: f"{module}:{near}") if own else ""
        raise UserError(
            f"env.id={env_id}: no such environment is registered"
            f"{found or suggest(name, list(gym.registry))}"
        ) from None


def import_users_module(module: str, key: str) -> Any:
    """Import a module that a configuration key names.

    Args:
        module: its name.
        key: the key with its value, for messages.

    Raises:
        UserError: the module cannot be imported.
    """
    try:
        with apart():
            return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a user's module may raise anything when imported
        package = taken_package(error)
        if package is not None:
            missing = getattr(error, "name", None) or package
            raise UserError(
                f"{key}: module {module} imports {missing}, but `{package}` is a package of "
                f"raydqn's; rename the package `{package}` of yours"
            ) from error
        raise UserError(
            f"{key}: module {module} cannot be imported "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _package_of(spec: gym.envs.registration.EnvSpec) -> str:
    """The package that an environment is of, as far as its entry point tells."""
    entry = spec.entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return module.partition(":")[0].partition(".")[0]

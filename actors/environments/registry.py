"""Gymnasium's registry: from an id to the registered environment."""

from __future__ import annotations

import importlib
import warnings

import gymnasium as gym

from actors.environments.environment import first_line
from actors.environments.minatar import PREFIX as MINATAR
from actors.environments.minatar import register_minatar
from common.errors import UserError
from common.suggestion import suggest


def find_registered(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered environment of an id; imports `module` of "module:Id" first.

    Raises:
        UserError: no environment of this id, or a module or package that cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # a user's module may raise anything when imported
            raise UserError(
                f"env.id={env_id}: module {module} cannot be imported "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error
    if name.startswith(MINATAR):
        register_minatar(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice that a newer version exists
            return gym.spec(name)
    except gym.error.Error:
        known = [  # with a module, only what that module registered
            known_id
            for known_id, known_spec in gym.registry.items()
            if not module or str(known_spec.entry_point).startswith(module.partition(".")[0])
        ]
        raise UserError(
            f"env.id={env_id}: no such environment is registered{suggest(name, known)}"
        ) from None

"""From `env` of the configuration to environments."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from actors.environments.atari import is_atari, make_atari
from actors.environments.environment import Environment
from actors.environments.envpool_backend import make_envpool
from actors.environments.gymnasium_env import make_gymnasium
from actors.environments.process_state import seed_global_generators
from actors.environments.trial import Trial
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import EnvironmentSpec


def make_environment(
    config: EnvConfig, copies: int, render: bool = False, seed: int | None = None
) -> Environment:
    """N copies of the environment that the configuration names.

    Args:
        config: of the environment.
        copies: N.
        render: make `Environment.render` return pictures.
        seed: of the generators that all code of a process shares, from which a constructor may
            draw; None: they stay as they are.

    Raises:
        UserError: an unknown id, a constructor that raises, actions that are not discrete, or
            observations that become neither vectors nor pictures.
        EnvironmentFailedError: another method of the environment raised.
    """
    if seed is not None:
        seed_global_generators(seed)
    if config.backend == "envpool":
        return make_envpool(config, copies, render)
    if is_atari(config.id):
        return make_atari(config, copies)
    return make_gymnasium(config, copies, render)


def environment_spec(config: EnvConfig, seed: int = 0) -> EnvironmentSpec:
    """The spec of an environment; makes one copy, resets and steps it, and closes it.

    Args:
        config: of the environment.
        seed: of the run; the copy begins as the first copy of the first actor does.

    Raises:
        UserError: see `make_environment`; or `reset`, `step` or `close` raises.
    """
    (env_seed,) = integer_seeds(seed_sequence(seed, Role.ACTOR), 1)
    trial = Trial(config)
    try:
        environment = make_environment(config, 1, seed=env_seed)
        try:
            environment.reset(env_seed)
            legal = environment.legal
            environment.step(np.zeros(1, np.int64) if legal is None else legal.argmax(axis=1))
            cost = trial.cost()
        except EnvironmentFailedError:
            with suppress(EnvironmentFailedError):  # the first error is the one to report
                environment.close()
            raise
        environment.close()
    except EnvironmentFailedError as error:
        raise UserError(str(error)) from error
    return replace(environment.spec, trial=cost)

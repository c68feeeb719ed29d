"""Helpers of the tests of environments: configurations, actions, environments that misbehave."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments import make_environment, process_state
from common.config_sections import EnvConfig
from common.errors import UserError
from support.acting import needs_atari, needs_minatar

BREAKOUT = "ALE/Breakout-v5"
PONG = "ALE/Pong-v5"
ATARI = pytest.param(BREAKOUT, marks=needs_atari)
MINATAR = pytest.param("MinAtar/Breakout-v1", marks=needs_minatar)


def refusal(copies=1, **config):
    """The message of the UserError that this configuration earns: always one line."""
    with pytest.raises(UserError) as caught:
        make_environment(EnvConfig(**config), copies).close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def actions_of(*numbers):
    return np.array(numbers, np.int64)


def play(environment, steps, seed=0):
    """Random actions; the TimeSteps."""
    rng = np.random.default_rng(seed)
    shape = (steps, environment.num_envs)
    return [environment.step(row) for row in rng.integers(environment.spec.num_actions, size=shape)]


def forget_states() -> None:
    """Forget the state of the process that the environments of a test want in their next call."""
    for name in ("_theirs", "_their_alarm", "_their_errors"):
        setattr(process_state, name, None)

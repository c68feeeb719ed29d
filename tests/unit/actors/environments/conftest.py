"""Fixtures of the tests of environments."""

from __future__ import annotations

import pytest

from actors.environments import make_environment
from common.config_sections import EnvConfig


@pytest.fixture
def make():
    """make_environment, with everything closed in the end."""
    made = []

    def make(copies=2, render=False, **config):
        environment = make_environment(EnvConfig(**config), copies, render)
        made.append(environment)
        return environment

    yield make
    for environment in made:
        environment.close()

"""Environments: one file per family, and the functions that make them from the configuration."""

from actors.environments.environment import Environment
from actors.environments.factory import environment_spec, make_environment

__all__ = ["Environment", "environment_spec", "make_environment"]

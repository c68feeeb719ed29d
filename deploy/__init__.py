"""Putting the parts together: the command line, the program, the supervisor, Ray."""

from common.version import PACKAGES, VERSION

__all__ = ["PACKAGES", "VERSION"]

"""Helpers of the tests: fakes, environments, naive twins."""

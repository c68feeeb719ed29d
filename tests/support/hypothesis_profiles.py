"""Profiles of Hypothesis: fewer examples while developing, all of them in continuous integration.

`HYPOTHESIS_PROFILE=ci` runs all examples anywhere.
"""

from __future__ import annotations

import os

from hypothesis import settings

EXAMPLES = {"development": 10, "ci": 100}
"""Examples of a test that asks for no number of its own."""


def load_profile() -> None:
    """Register the profiles and load the one of this environment."""
    for name, count in EXAMPLES.items():
        settings.register_profile(name, max_examples=count, deadline=None)
    default = "ci" if os.environ.get("CI") == "true" else "development"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", default))


def examples(count: int) -> settings:
    """Settings of a test that needs `count` examples, fewer in the same proportion as the profile.

    Args:
        count: examples in continuous integration.
    """
    return settings(max_examples=max(5, count * settings().max_examples // EXAMPLES["ci"]))

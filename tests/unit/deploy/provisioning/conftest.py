"""Fixtures of the tests of provisioning."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from support.clusters import make_home


@pytest.fixture(scope="session", autouse=True)
def _rays_defaults_are_read_once():
    """They stay as they are while tests run, and each reading takes as long as a check."""
    from ray.autoscaler._private import util

    read, known = util._get_default_config, {}

    def defaults(provider):
        kind = provider["type"]
        if kind not in known:
            known[kind] = read(provider)
        return copy.deepcopy(known[kind])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(util, "_get_default_config", defaults)
        yield


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder of a machine on which nothing is missing; none of it is real."""
    return make_home(tmp_path / "home", monkeypatch)

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


@pytest.fixture(scope="session", autouse=True)
def _an_environment_that_can_be_made_is_tried_once():
    """The presets' environments stay as they are while tests run."""
    from deploy.provisioning import check

    try_it, known = check.environment_spec, {}

    def spec_of(config):
        key = config.model_dump_json()
        if key not in known:
            known[key] = try_it(config)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "environment_spec", spec_of)
        yield


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder of a machine on which nothing is missing; none of it is real."""
    return make_home(tmp_path / "home", monkeypatch)

"""The token of a Ray on this machine: random, in the environment alone, always asked for."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from common.errors import UserError
from deploy.launch.presets import make_config
from deploy.runtime import local_ray, local_token
from deploy.runtime.local_token import OPEN_WARNING, own_token


def variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}


@pytest.mark.parametrize(
    "before",
    [{}, {"RAY_AUTH_TOKEN": "personal"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/x"}],
    ids=str,
)
def test_each_run_has_a_random_token_and_the_users_own_comes_back(monkeypatch, before):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    tokens = set()
    for _ in range(3):
        with suppress(ZeroDivisionError), own_token(allow_no_token=False):
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
            raise ZeroDivisionError
        assert variables() == before
    assert len(tokens) == 3
    assert all(len(token) == 64 for token in tokens)


@pytest.mark.parametrize("mode", ["disabled", "Disabled"])
def test_a_run_without_a_token_needs_the_key(monkeypatch, mode):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    refused = f"RAY_AUTH_MODE={mode}: without a token every user"
    with pytest.raises(UserError, match=refused) as caught, own_token(allow_no_token=False):
        pass
    assert "--security.allow-no-token true" in str(caught.value)
    warnings = []
    with own_token(True, warnings.append):
        assert variables()["RAY_AUTH_MODE"] == mode
        assert warnings == [OPEN_WARNING]


def test_the_mode_is_looked_at_once_for_a_start(monkeypatch):
    monkeypatch.setattr(local_ray, "processes_in_own_groups", fail_to_start)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    looked, is_open = [], local_token._is_open
    monkeypatch.setattr(
        local_token, "_is_open", lambda allow: looked.append(allow) or is_open(allow)
    )
    warnings, config = [], make_config("cartpole", overrides={"security": {"allow_no_token": True}})
    start = local_ray.local_ray(1 << 20, config, warn=warnings.append)
    with pytest.raises(ZeroDivisionError), start:
        pass
    assert (looked, warnings) == ([True], [OPEN_WARNING])


def fail_to_start(before):
    raise ZeroDivisionError


@pytest.mark.parametrize("mode", ["", "token"])
def test_with_a_token_nothing_is_to_be_permitted(monkeypatch, mode):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with own_token(allow_no_token=False):
        assert variables()["RAY_AUTH_MODE"] == "token"

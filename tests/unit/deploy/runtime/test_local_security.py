"""The token of a Ray on this machine: random, in the environment alone, always asked for."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from common.errors import UserError
from deploy.runtime.local_security import check_token_mode, own_token


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
    with pytest.raises(
        UserError, match=f"RAY_AUTH_MODE={mode}: without a token every user"
    ) as caught:
        check_token_mode(allow_no_token=False)
    assert "--security.allow-no-token true" in str(caught.value)
    with own_token(allow_no_token=True):
        assert variables()["RAY_AUTH_MODE"] == mode


@pytest.mark.parametrize("mode", ["", "token"])
def test_with_a_token_nothing_is_to_be_permitted(monkeypatch, mode):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert not check_token_mode(allow_no_token=False)

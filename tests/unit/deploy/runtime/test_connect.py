"""Addresses of clusters: a wrong one gives an error of one line, at once."""

from __future__ import annotations

import socket

import pytest

from common.errors import UserError
from deploy.cli.main import main
from deploy.runtime.connect import connect
from support.ray_ports import CLIENTS, one_port


@pytest.mark.parametrize(
    "address", ["here", "ray://", "10.0.0.1", "10.0.0.1:x", ":6379", "a:70000"]
)
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match="must be auto, HOST:PORT or ray://HOST:PORT"):
        connect(address)


@pytest.mark.parametrize("host", ["..", "a" * 70, "a..b"])
def test_a_host_that_no_machine_can_have(host):
    with pytest.raises(UserError, match="cannot be a machine's name"):
        connect(f"{host}:6379")


def test_an_address_that_does_not_answer(capsys):
    with socket.socket() as events:  # bound, and not listening
        events.bind(("127.0.0.1", 0))
        port = events.getsockname()[1]
        assert main(["train", "--address", f"127.0.0.1:{port}"]) == 2
        assert main(["status", "--address", f"ray://127.0.0.1:{port}"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if "does not answer" in line] == [
        line for line in err if line.startswith("raydqn: error:")
    ]
    assert main(["train", "--address", "auto", "--inline"]) == 2


CAUSES = (
    "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err",
    "RuntimeError: Unable to succeed in selecting a random port.",
    "TimeoutError: GetOrCreateRuntimeEnv request failed after 5 attempts.",
)


@pytest.fixture
def not_served(monkeypatch):
    """An address where Ray's client is not served as often as the list is long."""
    said = (
        "Initialization failure from server:\nTraceback (most recent call last):\n"
        '  File "ray/_private/authentication.py", line 772, in Datapath\n    raise RuntimeError(\n'
    )
    times = []

    def init(**_):
        if times:
            raise ConnectionError(f"{said}{times.pop()}\n")

    monkeypatch.setattr("ray.init", init)
    with one_port(CLIENTS) as clients:
        monkeypatch.setattr("deploy.runtime.connect._check_token_and_port", lambda address: None)
        yield f"ray://{clients}", times


def test_a_client_that_is_not_served_tries_once_more(not_served):
    address, times = not_served
    times.append(CAUSES[0])
    connect(address)
    assert not times


@pytest.mark.parametrize("cause", CAUSES)
def test_a_head_that_serves_no_client_is_told_by_its_words(not_served, cause):
    address, times = not_served
    times.extend([cause] * 5)
    with pytest.raises(UserError) as caught:
        connect(address)
    assert len(times) == 5 - 2
    assert str(caught.value).startswith(
        f"--address={address}: its head answers, but could not begin to serve this client"
    )
    assert str(caught.value).endswith("; if it is busy, try again")
    assert cause in str(caught.value)


def test_a_client_whose_token_the_head_refuses_is_told_where_to_put_one(not_served):
    address, times = not_served
    times.append("ray.exceptions.AuthenticationError: the request has a wrong token")
    with pytest.raises(UserError, match=r"put its own into ~/\.ray/auth_token"):
        connect(address)
    assert not times

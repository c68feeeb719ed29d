"""Addresses of clusters: a wrong one gives an error of one line, at once."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from common.errors import UserError
from deploy.cli.main import main
from deploy.runtime.connect import connect
from support.paths import ROOT
from support.program import environment_without_ray


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


CLIENTS, CONTROL = "/ray.rpc.RayletDriver/ClusterInfo", "/ray.rpc.NodeInfoGcsService/CheckAlive"


class OnePort(grpc.GenericRpcHandler):
    """A port of Ray's that serves one method, to clients with the token."""

    def __init__(self, method, token):
        self._method, self._token = method, token

    def service(self, details):
        if details.method != self._method:
            return None

        def answer(request, context):
            if dict(details.invocation_metadata).get("authorization") != f"Bearer {self._token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid token")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def one_port(method, token="t" * 64):
    """HOST:PORT of it."""
    server = grpc.server(ThreadPoolExecutor(1), [OnePort(method, token)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


WITH_TOKEN = """
import ray, sys
from deploy.runtime.connect import connect
from common.errors import UserError
ray.init = lambda **_: print("let in", file=sys.__stdout__)
for address in sys.argv[1:]:
    try:
        connect(address)
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(("token", "refused"), [("t" * 64, False), ("f" * 64, True), (None, True)])
def test_a_wrong_token_and_a_wrong_port_are_told_at_once(tmp_path, token, refused):
    # In a process of its own: Ray looks for a token once.
    env = environment_without_ray() | {
        "RAY_AUTH_MODE": "token",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    env |= {"RAY_AUTH_TOKEN": token} if token else {}
    with one_port(CLIENTS) as clients, one_port(CONTROL) as control:
        right, wrong = [f"ray://{clients}", control], [clients, f"ray://{control}"]
        said = subprocess.run(
            [sys.executable, "-c", WITH_TOKEN, *right, *wrong],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    for address, line in zip(right, said[:2], strict=True):
        if refused:
            assert line.startswith(f"--address={address}: refused: "), line
            assert "put its own into ~/.ray/auth_token" in line
        else:
            assert line == "let in"
    if token:
        assert said[2:] == [
            f"--address={clients}: that port is for addresses with ray://, as ray://{clients}",
            f"--address=ray://{control}: that port is for addresses without ray://, as {control}",
        ]


@pytest.fixture
def not_served(monkeypatch):
    """An address where Ray's client is not served as often as the list is long."""
    said = (
        "Initialization failure from server:\nTraceback (most recent call last):\n"
        '  File "ray/_private/authentication.py", line 772, in Datapath\n    raise RuntimeError(\n'
        "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err\n"
    )
    times = []

    def init(**_):
        if times:
            times.pop()
            raise ConnectionError(said)

    monkeypatch.setattr("ray.init", init)
    with one_port(CLIENTS) as clients:
        monkeypatch.setattr("deploy.runtime.connect._check_token_and_port", lambda address: None)
        yield f"ray://{clients}", times


def test_a_client_that_is_not_served_tries_once_more(not_served):
    address, times = not_served
    times.append(1)
    connect(address)
    assert not times


def test_a_head_that_serves_no_client_is_told_by_what_it_said(not_served):
    address, times = not_served
    times.extend(range(5))
    with pytest.raises(UserError) as caught:
        connect(address)
    assert len(times) == 5 - 2
    assert str(caught.value).startswith(
        f"--address={address}: its head answers, but could not begin to serve this client"
    )
    assert str(caught.value).endswith("; if it is busy, try again")
    assert "See ray_client_server_23000.err" in str(caught.value)

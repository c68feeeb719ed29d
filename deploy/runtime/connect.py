"""Joining a cluster that exists already: as the driver of a run, or only to ask."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.config import Config
from common.errors import RemoteDiedError, UserError, one_line, shorten
from deploy.runtime import head, ray_private
from deploy.runtime.interface import EventSink
from deploy.runtime.names import NAMESPACE, service_names
from deploy.runtime.packaging import code_for
from deploy.runtime.placement import Cluster
from deploy.runtime.quiet import quiet, without_native_lines
from deploy.runtime.ray_runtime import RayRuntime

CONNECT_S = 10.0
"""Time limit for the first answer of an address."""
NOT_SERVED = "Initialization failure from server"
"""Ray's words when the head could not prepare a process for one client of `ray://`.

The cause, which follows them, is often of the moment: a busy agent, a port that another process
takes, or a process that never starts, since the head forks it while threads of gRPC's run
(ray-project/ray#63202). A second try is worthwhile.
"""
CLIENT_PORT = ("RayletDriver/ClusterInfo", b"\x08\x06")
"""A method of the port for clients, and a request of type ping, which needs no further process."""
CONTROL_PORT = ("NodeInfoGcsService/CheckAlive", b"")
"""The same for the port of the control store."""
TOKEN_HINT = (
    "if the cluster wants a token, put its own into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set "
    "RAY_AUTH_MODE=token"
)


@contextmanager
def joined_cluster(
    address: str, config: Config, events: EventSink, run: str
) -> Iterator[RayRuntime]:
    """A connection to a cluster, with resources for learner and shards, for the block.

    Args:
        address: `auto`, `HOST:PORT` of the cluster's control store, or `ray://HOST:PORT`.
        config: of the run.
        events: receives messages while the run waits for nodes.
        run: its name.

    Raises:
        UserError: no cluster answers, it refuses the token, it has another version of Ray or
            Python, it lacks a dependency of our code, a run of that name exists there, or it can
            never hold the run.
    """
    with connected(address, code_for(config)):
        with as_user_errors(f"--address={address}"):
            _check_name(run)
            placement = Cluster(config, events)
        runtime = RayRuntime(placement, heartbeat_every_s=config.supervision.heartbeat_every_s)
        try:
            yield runtime
        finally:
            placement.free()
            runtime.remove_heartbeats()


@contextmanager
def connected(address: str, code: Sequence[Path] = ()) -> Iterator[None]:
    """A connection to a cluster for the block (see `connect`); the cluster stays."""
    import ray

    with without_native_lines():
        try:
            connect(address, code)
            yield
        finally:
            ray.shutdown()


@contextmanager
def as_user_errors(where: str) -> Iterator[None]:
    """Turn Ray's errors, before a run begins, into user errors of one line.

    Args:
        where: named in the message.

    Raises:
        UserError: in place of Ray's errors.
    """
    from ray.exceptions import GetTimeoutError, RayError

    try:
        yield
    except RemoteDiedError as error:
        raise UserError(f"{where}: {error}, before the run began; try again") from None
    except GetTimeoutError:
        raise UserError(
            f"{where}: its head did not answer within {head.HEAD_S:g} s; is it overloaded?"
        ) from None
    except RayError as error:
        missing = re.search(r"No module named '([\w.]+)'", str(error))
        if missing is None:
            raise UserError(f"{where}: {shorten(one_line(error))}") from None
        raise UserError(
            f"{where}: a node there has no module {missing[1]}; install raydqn's dependencies on "
            "all nodes, in the versions of constraints.txt"
        ) from None


def _check_name(run: str) -> None:
    """Refuse a name that a run on the cluster has: other drivers find runs by their names.

    Raises:
        UserError: the name is taken.
    """
    if run in service_names():
        raise UserError(
            f"{run}: a run of that name is active there, or has just ended; name another "
            "--run-dir, or wait for its end"
        )


def connect(address: str, code: Sequence[Path] = ()) -> None:
    """Become a driver of the cluster at `address`; `ray.shutdown` ends that.

    Args:
        address: see `joined_cluster`.
        code: packages and modules that nodes import; a driver without remotes needs none.

    Raises:
        UserError: see `joined_cluster`.
    """
    from ray.exceptions import AuthenticationError, RayError

    _check_answers(address)
    try:
        _check_token_and_port(address)
        try:
            _join(address, code)
        except ConnectionError as error:
            if not _is_not_served(error):
                raise
            _join(address, code)
    except AuthenticationError:
        raise _refused(address) from None
    except ConnectionError as error:
        raise _not_connected(address, error) from None
    except RuntimeError as error:
        raise _not_joined(address, error) from None
    except (ValueError, RayError) as error:
        raise UserError(f"--address={address}: {shorten(error)}") from None


def _not_connected(address: str, error: ConnectionError) -> UserError:
    """The error of a cluster that cannot be reached, in our words."""
    text = str(error)
    if _is_not_served(error):  # with the head's traceback, whose last line names the cause
        return UserError(
            f"--address={address}: its head answers, but could not begin to serve this client "
            f"({shorten(one_line(error))}); if it is busy, try again"
        )
    if "auth" in text.lower() or "token" in text.lower():
        return _refused(address)
    if "Could not find" in text:
        return UserError(
            f"--address={address}: no Ray runs on this machine; name the HOST:PORT of a "
            "cluster, start one (`ray up FILE`, or `ray start --head`), or leave --address out "
            "to run on this machine alone"
        )
    return UserError(
        f"--address={address}: the port answers, but refuses the connection ({shorten(error)}); "
        f"is it the right port (10001 with ray://, else 6379)? {TOKEN_HINT}"
    )


def _not_joined(address: str, error: RuntimeError) -> UserError:
    """The error of a cluster that does not fit this process, in our words."""
    import ray

    text = str(error)
    if "ersion" in text:
        return UserError(
            f"--address={address}: the cluster has other versions ({shorten(error)}); install "
            f"ray {ray.__version__} and Python {sys.version_info[0]}.{sys.version_info[1]} on "
            "all its nodes, or theirs here"
        )
    if "nauthenticated" in text or "token" in text:
        return _refused(address)
    return UserError(f"--address={address}: cannot be joined ({shorten(error)})")


def _is_not_served(error: ConnectionError) -> bool:
    return NOT_SERVED in str(error) and "AuthenticationError" not in one_line(error)


def _join(address: str, code: Sequence[Path]) -> None:
    """Let Ray connect this process."""
    import ray

    with quiet():  # Ray repeats on standard error, once a second, what our message says once
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="error",
            runtime_env=_runtime_env(code),
        )


def _runtime_env(code: Sequence[Path]) -> dict[str, Any] | None:
    """Have every node import that code; a submitted job has its code on the nodes already."""
    if not code or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    return {"py_modules": [str(path) for path in code]}


def _refused(address: str) -> UserError:
    return UserError(f"--address={address}: refused: {TOKEN_HINT}")


def _check_answers(address: str) -> None:
    """Check that a process listens there: Ray itself would try for minutes.

    Raises:
        UserError: no process listens, or it is no address.
    """
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(
            f"--address={address}: must be auto, HOST:PORT or ray://HOST:PORT, such as "
            "ray://10.0.0.1:10001"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except UnicodeError:
        raise UserError(f"--address={address}: {host} cannot be a machine's name") from None
    except OSError as error:
        raise UserError(
            f"--address={address}: does not answer ({error.strerror or error}); is the cluster up, "
            "and the port reachable from here? (ray:// needs port 10001)"
        ) from None


def _check_token_and_port(address: str) -> None:
    """Make a call that needs the token alone: Ray itself would try for half a minute.

    Raises:
        UserError: it is another port of the cluster's, or the token is wrong.
        AuthenticationError: there is no token here.
    """
    if address == "auto":
        return
    import grpc

    place = address.removeprefix("ray://")
    channel = ray_private.grpc_channel(place)
    if channel is None:  # `ray.init` will tell, later
        return

    def call(method: str, request: bytes) -> grpc.StatusCode:
        send = channel.unary_unary(f"/ray.rpc.{method}")
        try:
            send(request, timeout=CONNECT_S, metadata=[("client_id", "raydqn")])
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    right, other = CLIENT_PORT, CONTROL_PORT
    hint = f"without ray://, as {place}"
    if place == address:
        right, other = other, right
        hint = f"with ray://, as ray://{place}"
    codes = grpc.StatusCode
    try:
        with quiet():
            status = call(*right)
            wrong = status is codes.UNIMPLEMENTED and call(*other) in (
                codes.OK,
                codes.UNAUTHENTICATED,
            )
    finally:
        channel.close()
    if status is codes.UNAUTHENTICATED:
        raise _refused(address)
    if wrong:
        raise UserError(f"--address={address}: that port is for addresses {hint}")

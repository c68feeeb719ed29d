"""A tunnel to the dashboard of a cluster's head, which listens on the head's loopback only."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError
from common.polling import poll_until
from deploy.provisioning.ray_commands import (
    END_S,
    as_typed,
    environment,
    ray_path,
    token,
    uninterrupted,
)
from deploy.runtime.connect import TOKEN_HINT

TUNNEL_S = 60.0
"""Longest wait for the dashboard's first response."""
POLL_S = 0.2
DASHBOARD_PORT = 8265


class TunnelError(Exception):
    """The tunnel is not open, or the dashboard does not respond."""


class TokenError(Exception):
    """The cluster has another token."""


@contextmanager
def tunnel(file: Path) -> Iterator[int]:
    """Open a tunnel by `ray dashboard`; a port of this machine that leads to the dashboard.

    Args:
        file: of the cluster.

    Raises:
        UserError: there is no tunnel, or the cluster refuses the token.
    """
    port = _free_port()
    command = [ray_path(), "dashboard", "--port", str(port), "--remote-port", str(DASHBOARD_PORT)]
    with tempfile.TemporaryFile("w+") as log:
        process: subprocess.Popen[bytes] | None = None
        try:
            with uninterrupted():
                process = subprocess.Popen(
                    [*command, str(file)],
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C ends the job's output first, then the tunnel
                )
            wait_for_dashboard(port, process)
            yield port
        except TokenError:
            raise UserError(f"{file}: the cluster refused the token: {TOKEN_HINT}") from None
        except TunnelError as error:
            log.seek(0)
            lines = log.read().strip().splitlines() or ["`ray dashboard` printed nothing"]
            raise UserError(
                f"{file}: no tunnel to the head ({error}): {lines[-1]}; if its machines have "
                f"restarted: {as_typed('up', file)}; to end the cluster: {as_typed('down', file)}"
            ) from None
        finally:
            if process is not None:
                _end(process)


def wait_for_dashboard(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard responds: the tunnel is open before the dashboard is ready.

    Raises:
        TunnelError: the tunnel's process ended, or the dashboard timed out.
        TokenError: the dashboard refuses the token.
    """

    def responds() -> bool:
        if process.poll() is not None:
            raise TunnelError(f"exit code {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            headers = {"Authorization": f"Bearer {token()}"}
            connection.request("GET", "/api/version", headers=headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if status in (401, 403):
            raise TokenError
        return True

    if not poll_until(responds, TUNNEL_S, POLL_S):
        raise TunnelError(f"no response within {TUNNEL_S:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and its `ssh`."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port

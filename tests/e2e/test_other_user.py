"""Another user of the machine, beside a run on Ray: reaches nothing, and reads no token."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deploy.runtime.temp_folder import private_temp_folder
from support.program import CALM, TINY_OPTIONS, descendants, learner_steps_in, running, wait_for

OTHER_UID = 65_534
AGENT_PORT = 52_365
"""Of Ray's job agent; a second Ray on one machine goes without."""
OTHER_USER = """
import encodings.idna, http.client, json, os, sys
import copy, traceback, grpc, grpc._channel
asked = json.load(sys.stdin)
os.setgroups([]); os.setgid(asked["uid"]); os.setuid(asked["uid"])

def submit(port, token):
    "POST a job to Ray's job agent: the HTTP status, or None where no HTTP server answers."
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = json.dumps({"entrypoint": asked["entrypoint"]})
        connection.request("POST", "/api/job_agent/jobs/", body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None

def alive(port, token):
    "Ask Ray's control store whether it is alive: gRPC's status."
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            call(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"

def readable(path):
    try:
        return open(path, "rb").read().decode("utf-8", "replace")
    except OSError:
        return None

json.dump({
    "jobs": [[port, submit(port, asked["token"])] for port in asked["ports"]],
    "alive": alive(asked["gcs"], asked["token"]),
    "environments": [pid for pid in asked["pids"] if readable(f"/proc/{pid}/environ")],
    "sockets": [path for path in asked["sockets"] if os.path.exists(path)],
    "commands": "".join(readable(f"/proc/{pid}/cmdline") or "" for pid in asked["pids"]),
}, sys.stdout)
"""


def as_user(uid: int, **asked):
    """What a process of another user finds out; see `OTHER_USER`."""
    # It imports as root, since the other user may not read the Python environment.
    done = subprocess.run(
        [sys.executable, "-c", OTHER_USER],
        input=json.dumps({"uid": uid, **asked}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def listeners_of(processes) -> dict[tuple[str, int], str]:
    """Address and port of each listening TCP socket, with the name of its process."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # Ray's helpers come and go
            for one in process.net_connections(kind="tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found[one.laddr.ip, one.laddr.port] = process.name()
    return found


def processes_of(process) -> list[psutil.Process]:
    """A command and all processes below it."""
    return [psutil.Process(process.pid), *descendants(process)]


def name_of(process: psutil.Process) -> str:
    """Empty of a process that has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def held_by_another_ray(processes) -> str:
    """Whose the port of Ray's job agent is, if it is not one of these processes'."""
    own = {port for _, port in listeners_of(processes)}
    for found in psutil.net_connections(kind="tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr.port == AGENT_PORT:
            return "" if AGENT_PORT in own else f"process {found.pid}"
    return ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")
def test_another_user_can_run_no_code_in_a_local_run_and_reads_no_token(tmp_path):
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    tmp_path.chmod(0o755)
    mark = Path("/tmp") / f"mark-{os.getpid()}-{os.urandom(4).hex()}"
    with running(
        *("train", "cartpole", "--run-dir", str(run), *TINY_OPTIONS, *CALM),
        env={"HOME": str(home)},
    ) as process:
        wait_for(lambda: learner_steps_in(run) > 0 or process.poll() is not None)

        def asked():
            """What the users find: processes and ports change while Ray's agents start."""
            processes = processes_of(process)
            listeners = listeners_of(processes)
            (raylet,) = [one for one in processes if name_of(one) == "raylet"]
            (gcs,) = [port for (_, port), name in listeners.items() if name == "gcs_server"]
            return raylet.environ()["RAY_AUTH_TOKEN"], {
                "listeners": list(listeners),
                "ports": sorted({port for _, port in listeners}),
                "gcs": gcs,
                "pids": [one.pid for one in processes],
                "entrypoint": f"touch {mark}",
                "sockets": [str(one) for one in private_temp_folder().rglob("sockets/*")],
            }

        def owner_submits():
            token, about = asked()
            found = as_user(0, token=token, **about)
            assert found["alive"] == "OK"
            return 200 in {status for _, status in found["jobs"]}

        # With the token a job runs: the other user below asks at the right place. Another Ray on
        # this machine may hold the agent's port, which is fixed; then this run has no agent.
        if wait_for(lambda: held_by_another_ray(processes_of(process)) or owner_submits()) is True:
            wait_for(mark.exists, 60)
            mark.unlink()

        token, about = asked()
        # What listens, listens on the loopback address alone.
        addresses = {ip for ip, _ in about["listeners"]}
        assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, about["listeners"]
        for address in {socket.gethostbyname(socket.gethostname())} - {"127.0.0.1", "127.0.1.1"}:
            for port in about["ports"]:
                with (
                    pytest.raises(ConnectionRefusedError),
                    socket.create_connection((address, port), 5),
                ):
                    pass

        for wrong in ("", "f" * 64):
            found = as_user(OTHER_UID, token=wrong, **about)
            statuses = [status for _, status in found["jobs"]]
            assert {401, 403} & set(statuses), "Ray's agents refuse"
            assert 200 not in statuses, found["jobs"]
            assert found["alive"] == "UNAUTHENTICATED"
            assert found["environments"] == []
            assert token not in found["commands"]
            assert found["sockets"] == []
        assert not mark.exists()

        # No file has the token: neither the home folder nor Ray's own, nor the run's.
        for folder in (home, run, private_temp_folder()):
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert token.encode() not in path.read_bytes(), path

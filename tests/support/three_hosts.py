"""A cluster of three hosts, brought up as a user does: `raydqn cluster submit FILE`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml

from support.hosts import Host, Hosts
from support.paths import ROOT
from support.program import environment_without_ray

ON_PREM = ROOT / "deploy" / "clusters" / "on-prem.yaml"
CPUS = 3
SETTINGS = " ".join(
    (
        # How long a worker's raylet waits for a head that `ray down` has ended.
        "RAY_gcs_rpc_server_reconnect_timeout_s=20",
        # How long a head waits for a client's process, half of which never start here: NOT_SERVED
        # in deploy/runtime/connect.py.
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=12",
        "AUTOSCALER_UPDATE_INTERVAL_S=1",
        # No processes in advance: nine of them would import Ray on two cores.
        "RAY_prestart_worker_first_driver=0",
    )
)
"""For Ray on the hosts: shorter waits, less work."""
OWN_ENVIRONMENT = """
import pathlib, time
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

FAST = pathlib.Path.home() / "fast"

class Own(CartPoleEnv):
    "CartPole, whose steps take time unless the host has a file of that name."
    def step(self, action):
        if not FAST.exists():
            time.sleep(0.02)
        return super().step(action)

gymnasium.register("Own-v0", Own, max_episode_steps=500)
"""


def _with_packages(commands: list[str]) -> list[str]:
    """Setup commands for hosts that reach no package index: others' packages are there already.

    They are those of this environment, all but raydqn: what lets Python see it here is a file
    beside them, which counts for this environment only. The pip of the hosts finds in them all
    that the lock files name, and installs raydqn alone.
    """
    begin = next(i for i, command in enumerate(commands) if "-m venv" in command)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python, packages = Path(sys.base_prefix) / "bin" / version, sysconfig.get_path("purelib")
    site = f"~/raydqn/venv/lib/{version}/site-packages"
    run = '#!/bin/sh\\n{}exec ~/raydqn/venv/bin/python -m {} "$@"\\n'
    # No index, no search for dependencies, and compiling is left to the imports.
    pip = "export PIP_NO_INDEX=1 PIP_NO_DEPS=1 PIP_NO_COMPILE=1; "
    return [
        *commands[:begin],
        commands[begin]
        .replace("bin/python3.12", f"bin/{version}")
        .replace("python3.12 -m venv", f"{python} -m venv --without-pip"),
        f"echo {packages} > {site}/index.pth",
        *(
            f"printf '{script}' > ~/raydqn/venv/bin/{name} && chmod +x ~/raydqn/venv/bin/{name}"
            for name, script in (
                ("ray", run.format("", "ray.scripts.scripts")),
                ("pip", run.format(pip, "pip")),
            )
        ),
        # Whatever this machine has, this environment may have torch's CPU build.
        *(
            f"export RAYDQN_TORCH=cpu; {command}" if "install.sh" in command else command
            for command in commands[begin + 1 :]
        ),
    ]


class Cluster:
    """The three hosts, and this machine as the one they are used from."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.head, *self.workers = hosts.all
        self.folder = folder
        self.file = folder / "cluster.yaml"
        self.home = folder / "home-of-user"
        token = self.home / ".ray" / "raydqn-on-prem.token"
        token.parent.mkdir(parents=True)
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        own = self.home / "own"  # the user's own code
        own.mkdir()
        (own / "own_envs.py").write_text(OWN_ENVIRONMENT)
        self.env = {
            **environment_without_ray(),
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(own),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._write_file()

    def _write_file(self) -> None:
        """The project's own file, with our addresses, key, and cores."""
        document = yaml.safe_load(ON_PREM.read_text(encoding="utf-8"))
        document["provider"] |= {
            "head_ip": self.head.address,
            "worker_ips": [host.address for host in self.workers],
        }
        # Ray keeps what it knows of such a cluster on this machine, by its name, in /tmp.
        document["cluster_name"] = f"raydqn-{secrets.token_hex(4)}"
        document["auth"] = {"ssh_user": self.head.user, "ssh_private_key": str(self.head.key)}
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            before = "\n".join(document[key])
            document[key] = [
                command.replace(
                    "--num-cpus=8", f"--num-cpus={CPUS} --object-store-memory={200 << 20}"
                )
                .replace("--num-gpus=1", "")
                .replace("--num-gpus=0", "")
                .replace("ulimit", f"export {SETTINGS}; ulimit")
                # The look for a worker's raylet that `ray up` restarts, which no test does.
                .replace("sleep 30", "sleep 2")
                for command in document[key]
            ]
            assert "\n".join(document[key]) != before
        document["setup_commands"] = _with_packages(document["setup_commands"])
        self.file.write_text(yaml.safe_dump(document), encoding="utf-8")

    def here(
        self, *command: str, timeout_s: float = 120.0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """A command as the user gives it: outside the cluster, in the project's folder."""
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def ray(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, outside the cluster."""
        return self.here(str(Path(sys.executable).parent / "ray"), *arguments, timeout_s=timeout_s)

    def raydqn_here(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`raydqn ARGUMENTS`, outside the cluster."""
        return self.here(sys.executable, "-m", "deploy", *arguments, **env)

    def on(self, host: Host, command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command on one of the hosts, in the environment that its set-up made for shells."""
        named = " ".join(f"{name}={value}" for name, value in env.items())
        return host.ssh(f". ~/raydqn/profile; cd; {named} {command}", timeout_s=120.0)

    def raydqn(self, arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`raydqn ARGUMENTS` on the head."""
        return self.on(self.head, f"raydqn {arguments}", **env)

    @contextmanager
    def at_full_speed(self) -> Iterator[None]:
        """Steps of the user's environment take no time; at other times they save CPU."""
        files = [host.home / "fast" for host in self.workers]
        for file in files:
            file.touch()
        try:
            yield
        finally:
            for file in files:
                file.unlink()

    def left(self) -> list[list[str]]:
        """Command lines of all processes on the hosts, without sshd."""
        found = []
        for host in self.hosts.all:
            for process in host.processes():
                with suppress(psutil.NoSuchProcess):
                    found.append(process.cmdline())
        return found

    def status(self, run: str) -> dict:
        """What a run wrote of itself last, on the head; an empty one before it has.

        The file, not the command: to ask every other second must not cost a core of two.
        """
        try:
            return json.loads(self.run_file(run, "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"parts": [], "learner_steps": 0, "score": None}

    def run_file(self, run: str, name: str) -> Path:
        """A file of a run's folder, on the head."""
        return self.head.home / "raydqn" / "runs" / run / name

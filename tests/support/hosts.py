"""Several machines on one: each host has its own network, processes, name, home, /tmp and sshd.

Linux namespaces separate them, which takes root, and Debian's openssh-server, openssh-client, rsync
and iproute2. The rest of the file system is shared: the interpreter, and the project. A login is an
ordinary user's, `USER`; it is root's if only root can read the project.

Each set of hosts has a number, its network: sets with different numbers can run side by side.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

USER, USER_ID = "engineer", 23456
OWN = ("/tmp", "/root", "/home")  # folders that each host has for itself
TOOLS = ("sshd", "ssh", "rsync", "ip", "unshare", "mount")

SSHD = """
ListenAddress {address}
HostKey {folder}/hostkey
PidFile {folder}/sshd.pid
AuthorizedKeysFile /mnt/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
"""


def user_for(shared: list[Path]) -> str:
    """`USER`, or root where only root may read what is to be shared."""

    def open_to_all(path: Path) -> bool:
        above = [] if any(map(path.is_relative_to, OWN)) else path.parents
        return path.stat().st_mode & 5 == 5 and all(one.stat().st_mode & 1 for one in above)

    readable = Path(__file__).stat().st_mode & 4
    return USER if readable and all(map(open_to_all, shared)) else "root"


def missing() -> str | None:
    """Why hosts cannot be made here; None: they can."""
    if os.geteuid() != 0:
        return "hosts of their own need root (namespaces)"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if lacking:
        return (
            f"hosts of their own need {', '.join(lacking)}: apt install openssh-server "
            "openssh-client rsync iproute2"
        )
    name = f"rdqn-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"hosts of their own need namespaces: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def _name(network: int, number: int) -> str:
    return f"rdqn{network}-{number}"


def _link(network: int, number: int) -> str:
    """The switch's end of a host's cable."""
    return f"rdqn-v{network}-{number}"


def _switch(network: int) -> str:
    return f"rdqn-br{network}"


def _address(network: int, number: int) -> str:
    return f"10.83.{network}.{10 + number}"


class Host:
    """One of them."""

    def __init__(
        self, network: int, number: int, folder: Path, shared: list[Path], names: Path, user: str
    ) -> None:
        self.user = user
        self.name = _name(network, number)
        self.address = _address(network, number)
        self.folder = folder
        self._shared, self._names = shared, names
        self._link = _link(network, number)
        self._process: subprocess.Popen[bytes] | None = None
        self.home = folder / "home"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self._link, "master", _switch(network), "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        for name in ("home", "root", "tmp", "shared", "etc"):
            (folder / name).mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        for name, line in (
            ("passwd", f"{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/bash"),
            ("group", f"{USER}:x:{USER_ID}:"),
            ("shadow", f"{USER}:*:20000:0:99999:7:::"),
        ):
            known = Path("/etc", name).read_text() if name != "shadow" else "root:*:20000::::::"
            (folder / "etc" / name).write_text(f"{known.rstrip()}\n{line}\n")
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "hostkey")]
        subprocess.run(keygen, check=True)
        shutil.copy(folder.parent / "key.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(SSHD.format(address=self.address, folder=folder))
        for path in (folder, *folder.iterdir(), *(folder / "etc").iterdir()):
            if path.name not in ("hostkey", "shadow", "tmp"):  # whatever the umask is
                path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "etc" / "shadow").chmod(0o600)
        if user == USER:
            os.chown(self.home, USER_ID, USER_ID)

    def start(self) -> None:
        """Switch it on."""
        # Each host has a /tmp, a /root and a /home of its own: what is shared may lie below.
        hidden = [path for path in self._shared if any(map(path.is_relative_to, OWN))]
        kept = [(path, self.folder / "shared" / str(i)) for i, path in enumerate(hidden)]
        lines = ["umask 022", f"hostname {self.name}", "mount -t proc proc /proc"]
        for path, aside in kept:
            aside.mkdir(exist_ok=True)
            lines.append(f"mount --rbind {path} {aside}")
        lines += [
            f"mount --bind {self._names} /etc/hosts",
            # By a path of its own, so that hiding /tmp does not hide the rest of the folder.
            f"mount --rbind {self.folder} /mnt",
            *(
                f"mount --bind /mnt/etc/{name} /etc/{name}"
                for name in ("passwd", "group", "shadow")
            ),
            "mount --bind /mnt/root /root",
            "mount -t tmpfs -o mode=755 tmpfs /home",
            f"mkdir -p {self.home_there}",
            f"mount --bind /mnt/home {self.home_there}",
            "mount --bind /mnt/tmp /tmp",
            "mount -t tmpfs -o size=4g tmpfs /dev/shm",
        ]
        for i, (path, _) in enumerate(kept):
            lines += [f"mkdir -p {path}", f"mount --rbind /mnt/shared/{i} {path}"]
        lines.append(f"mkdir -p {self.folder}; mount --rbind /mnt {self.folder}")
        lines.append(f"exec /usr/sbin/sshd -D -f {self.folder}/sshd_config -E {self.folder}/log")
        Path("/run/sshd").mkdir(exist_ok=True)
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        script = "set -e\n" + "\n".join(lines)
        with (self.folder / "boot.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", *spaces, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while (answer := self.ssh("true")).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                boot = (self.folder / "boot.log").read_text()
                raise RuntimeError(f"{self.name}: {boot}{answer.stderr}")
            time.sleep(0.1)

    @property
    def home_there(self) -> str:
        """The home folder, as the host calls it."""
        return "/root" if self.user == "root" else f"/home/{self.user}"

    @property
    def key(self) -> Path:
        """The private key that opens all hosts."""
        return self.folder.parent / "key"

    def ssh(self, command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command there, over SSH."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        return subprocess.run(
            [
                "ssh",
                "-i",
                str(self.key),
                *(f"-o{o}" for o in options),
                f"{self.user}@{self.address}",
                command,
            ],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def unplug(self) -> None:
        """Cut its network: nothing comes through any more, in either direction."""
        _ip("link", "set", self._link, "down")

    def plug_in(self) -> None:
        """Connect it again."""
        _ip("link", "set", self._link, "up")

    def processes(self) -> list[psutil.Process]:
        """Everything that runs there, sshd and its parents left out."""
        answer = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        own = ("sshd", "unshare", "ip", "sshd-session", "sshd-auth")
        found = []
        for pid in answer.stdout.split():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process = psutil.Process(int(pid))
                if process.name() not in own:
                    found.append(process)
        return found

    def power_off(self) -> None:
        """Everything that runs there ends at once."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        answer = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        for pid in answer.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()

    def remove(self) -> None:
        """Power off, and take its network away."""
        self.power_off()
        _ip("link", "del", self._link, check=False)
        _ip("netns", "del", self.name, check=False)


class Hosts:
    """All of them, on one switch; `close` takes everything away."""

    def __init__(self, count: int, folder: Path, shared: list[Path], network: int) -> None:
        """Make and start them.

        Args:
            count: how many.
            folder: for what belongs to them.
            shared: folders that they must all see, wherever they lie.
            network: number of their network, 0 to 255; what an earlier run left there is removed.
        """
        self.all: list[Host] = []
        self._network = network
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True
        )
        user = user_for(shared)
        names = folder / "hosts"
        names.write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{_address(network, i)} {_name(network, i)}\n" for i in range(count))
        )
        names.chmod(0o644)
        self._sweep(count)
        try:
            switch = _switch(network)
            _ip("link", "add", switch, "type", "bridge")
            _ip("addr", "add", f"10.83.{network}.1/24", "dev", switch)
            _ip("link", "set", switch, "up")
            for number in range(count):
                place = folder / f"host{number}"
                self.all.append(Host(network, number, place, shared, names, user))
                self.all[-1].start()
        except BaseException:
            self.close()
            raise

    def _sweep(self, count: int) -> None:
        """Remove what a run that was killed left behind."""
        for number in range(count):
            _ip("link", "del", _link(self._network, number), check=False)
            _ip("netns", "del", _name(self._network, number), check=False)
        _ip("link", "del", _switch(self._network), check=False)

    def close(self) -> None:
        """Take them away."""
        for host in self.all:
            host.remove()
        _ip("link", "del", _switch(self._network), check=False)

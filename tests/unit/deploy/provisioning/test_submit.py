"""`raydqn cluster submit` with a `ray` that writes down what it is asked for."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from common.config import Config
from common.config_text import build
from common.errors import UserError
from deploy.provisioning import job, ray_commands, submit, tunnel
from deploy.provisioning.submit import print_hints
from support.forks import forks_of
from support.paths import ROOT
from support.program import assert_all_gone, environment_without_ray, wait_for

NOT_UP = "RuntimeError: Head node of cluster (raydqn) not found!"


@pytest.fixture
def fake_ray(tmp_path, monkeypatch):
    """Answers each command with a line of shell; `asked` lists the commands."""

    class Fake:
        def __init__(self) -> None:
            self.answers: dict[str, str] = {}

        def write(self) -> Path:
            lines = [f"{name}) {answer} ;;" for name, answer in self.answers.items()]
            script = tmp_path / "ray"
            body = "\n".join(lines)
            script.write_text(
                f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncase $1 in\n{body}\nesac\n'
            )
            script.chmod(0o700)
            return script

        def has(self, command: str) -> Callable[[], bool]:
            """A function that tells whether a command was run."""
            return lambda: (tmp_path / "asked").is_file() and command in self.asked

        @property
        def asked(self) -> list[str]:
            path = tmp_path / "asked"
            return [line.split()[0] for line in path.read_text().splitlines()]

    fake = Fake()
    monkeypatch.setattr(ray_commands, "ray_path", lambda: str(fake.write()))
    monkeypatch.setattr(tunnel, "ray_path", ray_commands.ray_path)
    return fake


def up(fake, **answers: str) -> None:
    fake.answers = {name.replace("_", "-"): answer for name, answer in answers.items()}
    submit.bring_up(Path("cluster.yaml"))


def test_a_cluster_that_is_up_is_not_brought_up_again(fake_ray, capsys):
    """`ray up` begins with `ray stop`: every run there would end."""
    up(fake_ray, get_head_ip="echo 10.0.0.1")
    assert fake_ray.asked == ["get-head-ip"]
    assert "the cluster is up and used as it is" in capsys.readouterr().out


def test_one_that_is_not_up_is_brought_up(fake_ray):
    up(fake_ray, get_head_ip=f"echo '{NOT_UP}' >&2; exit 1", up="exit 0")
    assert fake_ray.asked == ["get-head-ip", "up"]


def test_a_cluster_that_failed_to_start_is_taken_down_again(fake_ray):
    with pytest.raises(
        UserError,
        match=r"ray up failed \(exit code 3\); the machines that it had st",
    ):
        up(fake_ray, get_head_ip=f"echo '{NOT_UP}'; exit 1", up="exit 3", down="exit 0")
    assert fake_ray.asked == ["get-head-ip", "up", "down"]


def test_a_cluster_that_cannot_be_taken_down_may_cost_money(fake_ray):
    with pytest.raises(UserError, match=r"ray down cluster.yaml failed .* they may cost money"):
        up(fake_ray, get_head_ip=f"echo '{NOT_UP}'; exit 1", up="exit 3", down="exit 4")


def test_a_cluster_of_unknown_state_is_neither_started_nor_ended(fake_ray):
    with pytest.raises(
        UserError,
        match=r"tell whether .* \(no network\); nothing was started",
    ):
        up(fake_ray, get_head_ip="echo no network; exit 1")
    assert fake_ray.asked == ["get-head-ip"]


def test_a_head_that_is_not_set_up_is_left_to_the_user(fake_ray):
    with pytest.raises(
        UserError,
        match=r"not finished its setup; nothing .*: wait, or ray up cluster.yaml, which",
    ):
        up(
            fake_ray,
            get_head_ip="echo 'Head node (10.0.0.1) is in state update-failed. The head node\n"
            " being returned: 10.0.0.1 is not `up-to-date`.'; echo 10.0.0.1",
        )
    assert fake_ray.asked == ["get-head-ip"]


def test_without_a_tunnel_the_cluster_stays_and_the_error_says_how_to_end_it(fake_ray):
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "dashboard": "echo no route; exit 1"}
    with pytest.raises(
        UserError,
        match=r"no route; if .*: ray up a.yaml; to end the cluster: ray down a.yaml",
    ):
        submit.submit(Path("a.yaml"), Config(), "mine")


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Starts processes that have imported what `submit` needs."""
    modules = ("common.config", "deploy.provisioning.submit")
    with forks_of(tmp_path_factory.mktemp("forks"), *modules) as started:
        yield started


@pytest.fixture
def signalled(forks, fake_ray, tmp_path):
    """Submit, and send a signal once `when()` is true: the commands of Ray's, standard error.

    Ctrl-C, and the signal of a terminal that is closed, go to the whole group; SIGTERM to the
    command alone.
    """

    def submitted(when, code, number, times=1):
        fake_ray.write()
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "[signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)]; "
            "from pathlib import Path; from common.config import Config; "
            "from deploy.provisioning import ray_commands, submit, tunnel; "
            f"tunnel.ray_path = ray_commands.ray_path = lambda: {str(tmp_path / 'ray')!r}\n{code}"
        )
        pid = forks.begin(code, FAKE_RAY=str(tmp_path))
        wait_for(when, poll_s=0.02)
        children = psutil.Process(pid).children(recursive=True)
        for _ in range(times):
            (os.kill if number is signal.SIGTERM else os.killpg)(pid, number)
            time.sleep(0.2)
        forks.wait()
        assert_all_gone(children)
        return fake_ray.asked, forks.err.read_text()

    return submitted


ENDS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)


def sleeps_below(tmp_path) -> bool:
    """Whether `LIKE_RAY` has started what it starts."""
    return any(
        one.info["cmdline"] == ["sleep", "30"]
        and (one.info["environ"] or {}).get("FAKE_RAY") == str(tmp_path)
        for one in psutil.process_iter(["cmdline", "environ"])
    )


# As Ray's own commands do it: a process in Python, and below it one that connects to the head.
LIKE_RAY = f'exec {sys.executable} -c \'import subprocess; subprocess.call(["sleep", "30"])\''


@ENDS
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_during_the_start_of_the_cluster_takes_it_down_again(
    fake_ray, signalled, tmp_path, number, times
):
    """A terminal that is closed tells twice; a second Ctrl-C is the way out."""
    fake_ray.answers = {
        "get-head-ip": f"echo '{NOT_UP}'; exit 1",
        "up": LIKE_RAY,
        "down": f"sleep 0.5; touch {tmp_path}/down",
    }
    asked, error = signalled(
        lambda: sleeps_below(tmp_path),
        "submit.submit(Path('cluster.yaml'), Config(), 'mine')",
        *(number, times),
    )
    assert asked == ["get-head-ip", "up", "down"]
    if number is signal.SIGINT and times == 2:
        assert (
            "ray down cluster.yaml was interrupted: check whether machines are left, they may"
            in error
        )
    else:
        assert (tmp_path / "down").exists()
        assert "cluster.yaml: the machines that it had started were taken down again" in error


@ENDS
def test_a_signal_before_the_job_is_sent_leaves_the_cluster_up_and_says_so(
    fake_ray, signalled, number
):
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "dashboard": "exec sleep 30"}
    asked, error = signalled(
        fake_ray.has("dashboard"),
        "submit.submit(Path('a.yaml'), Config(), 'mine')",
        number,
    )
    assert asked == ["get-head-ip", "dashboard"]
    assert "the cluster stays up; to end it: ray down a.yaml" in error


@ENDS
@pytest.mark.parametrize(
    ("state", "code", "says"),
    [
        ("echo RUNNING", 0, "the output ends here; the run continues as job mine"),
        ("exit 1", 130, "the cluster stays up; to end it: ray down a.yaml"),
    ],
    ids=["taken", "not-taken"],
)
def test_a_signal_after_the_job_was_sent_says_whether_the_run_continues(
    fake_ray, signalled, tmp_path, state, code, says, number
):
    sent = tmp_path / "sent"
    job = (
        f"case $2 in submit) touch {sent}; exec sleep 30;; "
        f"status) test -e {sent} || exit 1; {state};; esac"
    )
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "dashboard": "exec sleep 30", "job": job}
    asked, error = signalled(
        sent.is_file,
        "tunnel.wait_for_dashboard = lambda *_: None\n"
        "try: code = submit.submit(Path('a.yaml'), Config(), 'mine')\n"
        "except KeyboardInterrupt: code = 130\n"
        f"assert code == {code}, code",
        number,
    )
    assert asked.count("job") == 3, "whether the name is free; the job; what became of it"
    assert says in error
    assert "Traceback" not in error
    assert ("stays up" in error) == (code != 0)


@contextmanager
def handled(number, handler):
    """A signal, by this handler and no other."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_signal_during_the_start_of_a_process_is_delivered_afterwards():
    known = []

    def begin():
        with ray_commands.uninterrupted():
            signal.raise_signal(signal.SIGINT)
            known.append("it")

    with handled(signal.SIGINT, signal.default_int_handler):
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert known == ["it"]


def test_a_signal_that_nohup_ignores_stays_ignored():
    with handled(signal.SIGHUP, signal.SIG_IGN):
        with ray_commands.every_signal_as_ctrl_c(), ray_commands.uninterrupted():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_run_that_is_followed_no_longer_is_not_taken_for_one_that_has_ended(
    fake_ray, capsys, monkeypatch, tmp_path
):
    sent = tmp_path / "sent"
    job = (
        f"case $2 in submit) touch {sent}; echo connection lost; exit 1;; "
        f"status) test -e {sent} && echo RUNNING;; esac"
    )
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "job": job}
    monkeypatch.setattr(tunnel, "wait_for_dashboard", lambda port, process: None)
    assert submit.submit(Path("a.yaml"), Config(), "mine") == 1
    error = capsys.readouterr().err
    assert "the output ends here; the run continues as job mine" in error
    assert "ray down" not in error


@pytest.mark.parametrize("state", ["Status for job 'mine': RUNNING", "Job 'mine' succeeded"])
def test_a_name_that_was_taken_is_one_line(fake_ray, capsys, monkeypatch, state):
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "job": f'echo "{state}"'}
    monkeypatch.setattr(tunnel, "wait_for_dashboard", lambda port, process: None)
    with pytest.raises(UserError, match="--name=mine: the cluster has a job of that name already"):
        submit.submit(Path("a.yaml"), Config(), "mine")
    assert "from another terminal" not in capsys.readouterr().out
    assert fake_ray.asked.count("job") == 1, "nothing was sent"


def test_the_state_of_a_job_is_not_in_its_name(fake_ray):
    fake_ray.answers = {"job": "echo \"Job 'running-late' failed\""}
    assert job.job_state("running-late", "http://127.0.0.1:1") == "FAILED"


def test_a_token_that_the_cluster_refuses_is_one_line(fake_ray, monkeypatch, tmp_path):
    """By what answers at the end of the tunnel."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self):
            good = self.headers["Authorization"] == "Bearer good"
            self.send_response(200 if good else 403)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(tunnel, "_free_port", lambda: server.server_port)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "dashboard": "exec sleep 30", "job": ":"}
    refused = r"a.yaml: the cluster refused the token: .* put its own into ~/.ray/auth_token"
    try:
        with pytest.raises(UserError, match=refused):  # there is none
            submit.submit(Path("a.yaml"), Config(), "mine")
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("good\n")
        assert submit.submit(Path("a.yaml"), Config(), "mine") == 0
        monkeypatch.setenv("RAY_AUTH_TOKEN", "bad")
        with pytest.raises(UserError, match=refused):
            submit.submit(Path("a.yaml"), Config(), "mine")
    finally:
        server.shutdown()
        server.server_close()


def test_the_job_goes_to_the_cluster_of_the_file_and_to_no_other(fake_ray, monkeypatch, tmp_path):
    """Ray lets these variables win over the address that it is told."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS"):
        monkeypatch.setenv(name, "http://192.0.2.99:8265")
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "job": f"env > {tmp_path}/env"}
    monkeypatch.setattr(tunnel, "wait_for_dashboard", lambda port, process: None)
    assert submit.submit(Path("a.yaml"), Config(), "mine") == 0
    given = (tmp_path / "env").read_text()
    assert "192.0.2.99" not in given
    assert "RAY_AUTH_MODE=token" in given


def test_code_that_cannot_be_shipped_costs_no_machine(fake_ray, monkeypatch, tmp_path):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "link").symlink_to(tmp_path / "gone")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="cannot be shipped"):
        submit.submit(Path("a.yaml"), build({"env": {"id": "own_package:X-v0"}}), "mine")
    assert not (tmp_path / "asked").exists()


def test_a_job_that_was_not_taken_leaves_the_way_to_end_the_cluster(fake_ray, capsys, monkeypatch):
    fake_ray.answers = {"get-head-ip": "echo 10.0.0.1", "job": "echo taken already; exit 1"}
    monkeypatch.setattr(tunnel, "wait_for_dashboard", lambda port, process: None)
    assert submit.submit(Path("my cluster.yaml"), Config(), "mine") == 1
    assert "the cluster stays up; to end it: ray down 'my cluster.yaml'" in capsys.readouterr().err


def test_the_hints_are_commands_that_a_shell_takes_as_they_are_meant(capsys):
    print_hints(Path("a b.yaml"), "mine")
    commands = [shlex.split(line[20:]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert commands == [
        ["ray", "exec", "a b.yaml", "raydqn status mine --address auto"],
        ["ray", "exec", "a b.yaml", "raydqn scale mine --address auto --actors N"],
        ["ray", "exec", "a b.yaml", "ray job stop mine"],
        ["ray", "exec", "a b.yaml", "ray job logs --follow mine"],
        ["ray", "rsync-down", "a b.yaml", "~/raydqn/runs/mine", "."],
        ["ray", "down", "a b.yaml"],
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values: values["provider"].update(head_ip="192.0.2.10"), "nothing was started"),
        (None, "kubectl"),
    ],
    ids=["examples", "kuberay"],
)
def test_a_file_with_findings_or_for_kuberay_starts_nothing(tmp_path, change, says, fake_ray):
    from deploy.cli.main import main

    path = ROOT / "deploy" / "clusters" / "kuberay.yaml"
    if change is not None:
        values = yaml.safe_load((ROOT / "deploy" / "clusters" / "on-prem.yaml").read_text())
        change(values)
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(values))
    assert main(["cluster", "submit", str(path)]) == 2
    assert not (tmp_path / "asked").exists()


TOKENS = """
import os, sys
from ray._raylet import AuthenticationTokenLoader as Loader
from deploy.provisioning.ray_commands import token
for given in eval(sys.argv[1]):
    os.environ |= given
    Loader.instance().reset_cache()
    print(Loader.instance().get_raw_token() == token() != "", token())
    for name in given:
        del os.environ[name]
"""


def test_the_token_is_the_one_that_ray_takes(tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-the-home\n")
    (tmp_path / "other").write_text(" of-the-path \n")
    path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    given = [
        {}, {"RAY_AUTH_TOKEN": ""}, {"RAY_AUTH_TOKEN_PATH": ""}, path,
        {"RAY_AUTH_TOKEN": " of-the-variable ", **path},
    ]  # fmt: skip
    env = environment_without_ray() | {
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", TOKENS, repr(given)],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = ["of-the-home"] * 3 + ["of-the-path", "of-the-variable"]
    assert done.stdout.splitlines() == [f"True {token}" for token in wanted]

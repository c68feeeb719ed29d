"""`raydqn cluster submit` in a process: signals, and the token that Ray takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from common.config import Config
from common.errors import UserError
from deploy.provisioning import submit, tunnel
from support.fake_ray import NOT_UP, FakeRay
from support.forks import forks_of
from support.paths import ROOT
from support.program import assert_all_gone, environment_without_ray, wait_for


@pytest.fixture
def fake_ray(tmp_path, monkeypatch):
    """A `FakeRay` in place of `ray`."""
    return FakeRay(tmp_path, monkeypatch)


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

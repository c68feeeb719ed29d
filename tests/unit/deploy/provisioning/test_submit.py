"""`raydqn cluster submit` with a `ray` that writes down what it is asked for."""

from __future__ import annotations

import shlex
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from common.config import Config
from common.config_toml import build
from common.errors import UserError
from deploy.provisioning import job, ray_commands, submit, tunnel
from deploy.provisioning.submit import print_hints
from support.fake_ray import NOT_UP, FakeRay
from support.paths import ROOT


@pytest.fixture
def fake_ray(tmp_path, monkeypatch):
    """A `FakeRay` in place of `ray`."""
    return FakeRay(tmp_path, monkeypatch)


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

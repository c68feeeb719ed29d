"""The control service of a run on a cluster, and its client."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

from common.errors import UserError
from common.handles import InlineHandle
from deploy.cli.main import main
from deploy.control.control_file import Reply
from deploy.control.remote_run import send_request, service_of
from deploy.control.service import MAX_REPLIES, MAX_REQUESTS, ControlService
from deploy.reporting.status import PartStatus, run_status

REPORT = {
    "wall_s": 12.5,
    "env_steps": 1_000,
    "learner_steps": 10,
    "env_steps_per_s": 80.0,
    "learner_steps_per_s": 1.5,
    "score": None,
    "restarts": 1,
    "limiter": "balanced",
}


def test_a_service_queues_no_more_requests_than_its_bound():
    service = InlineHandle(ControlService("mine"))
    for number in range(MAX_REQUESTS):
        assert service.call("request", {}).result() == number + 1
    with pytest.raises(UserError, match="mine: 100 requests are waiting already; this one was ref"):
        send_request(service, "mine", {}, 1.0)
    assert len(service.call("poll", {}).result()) == MAX_REQUESTS
    assert service.call("request", {}).result() == MAX_REQUESTS + 1, "the run has polled"


def test_a_service_passes_each_request_on_once_and_keeps_the_replies():
    service = ControlService("mine")
    handle = InlineHandle(service)
    assert service.status() is None
    first = service.request({"actors": {"count": 2}})
    second = service.request({"actors": {"count": 3}})
    assert service.poll({}) == [
        (first, {"actors": {"count": 2}}),
        (second, {"actors": {"count": 3}}),
    ]
    assert service.poll({first: Reply(True, "it")}) == []
    assert service.reply(first) == Reply(True, "it")
    assert service.reply(second) is None
    service.publish({}, {"run": "mine"})
    assert service.status() == {"run": "mine"}
    assert send_request(handle, "mine", {}, timeout_s=0.0) is None
    last = MAX_REPLIES + 1_000
    for number in range(last):
        service.poll({number: Reply(False, "x")})
    kept = [number for number in range(last) if service.reply(number)]
    assert kept == list(range(last - MAX_REPLIES, last)), "bounded"


def test_a_run_that_the_cluster_does_not_have_is_named_with_those_it_has():
    with pytest.raises(UserError, match=r"yours: no run of that name is active at auto; .*: mine$"):
        service_of({"mine": InlineHandle(ControlService("mine"))}, "yours", "auto")
    with pytest.raises(UserError, match=r"yours: no run of that name .*; no run is active there"):
        service_of({}, "yours", "auto")


class Unresponsive:
    """The handle of a service whose node hangs: no call returns."""

    def call(self, method, *arguments):
        return self

    def done(self):
        return False


def test_a_service_that_times_out_delays_no_command_for_ever(monkeypatch, capsys):
    monkeypatch.setattr("deploy.control.remote_run.CALL_TIMEOUT_S", 0.2)
    responsive, gone = ControlService("a"), InlineHandle(None)
    responsive.publish({}, run_status("a", REPORT, []))
    services = {
        "a": InlineHandle(responsive),
        "b": Unresponsive(),
        "c": gone,
        "d": InlineHandle(ControlService("d")),
    }
    monkeypatch.setattr(
        "deploy.control.remote_run.services_at", lambda address: nullcontext(services)
    )
    assert main(["status", "--address", "auto", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["run"] for line in out.splitlines()] == ["a"]
    first, second = err.splitlines()
    assert first.startswith("raydqn: b: its control service timed out after 0.2 s")
    assert second == "raydqn: d: has no status yet; it comes with the first report"
    assert main(["status", "d", "--address", "auto"]) == 2
    assert "error: d: has no status yet" in capsys.readouterr().err
    assert main(["status", "b", "--address", "auto"]) == 2
    assert main(["scale", "b", "--actors", "2", "--address", "auto"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "b: its control service timed out after 0.2 s" in first


@pytest.fixture
def at_cluster(monkeypatch):
    """Statuses of the runs of a cluster, by name, as `raydqn status` finds them."""

    def publish(statuses):
        services = {name: ControlService(name) for name in statuses}
        for name, status in statuses.items():
            services[name].publish({}, status)
        handles = {name: InlineHandle(service) for name, service in services.items()}
        monkeypatch.setattr(
            "deploy.control.remote_run.services_at", lambda address: nullcontext(handles)
        )

    return publish


OPERATED = REPORT | {
    "device": "cpu, torch 2.13.0", "actors": 8, "actors_up": 7, "checkpoints": 4,
    "checkpoint_age_s": 42.0, "checkpoints_failed": 2, "lost_with_nodes": 0,
}  # fmt: skip
ACTOR = PartStatus("actor-3", 1, "h", 1, "ready", 9.0, "env steps/s", 4.0, 1, 0.0, "died: OOM")


def test_several_runs_have_one_line_each_with_all_that_an_operator_asks_for(at_cluster, capsys):
    at_cluster({name: run_status(name, OPERATED, [ACTOR]) for name in ("b", "a")})
    assert main(["status", "--address", "auto"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["a", "b"]
    for words in (
        "balanced",
        "learner on cpu, torch 2.13.0",
        "7 of 8 actors ready",
        "last good checkpoint 42 s ago",
        "failed checkpoints: 2",
        "days ago: actor-3 died: OOM",
    ):
        assert words in lines[0]
    assert main(["status", "a", "--address", "auto"]) == 0
    assert any(line.startswith("actor-3 ") for line in capsys.readouterr().out.splitlines())
    assert main(["status", "--address", "auto", "--json"]) == 0
    for line in capsys.readouterr().out.splitlines():
        status = json.loads(line)
        assert status["last_restarts"] == [{"part": "actor-3", "at": 0.0, "cause": "died: OOM"}]
        assert {key: status[key] for key in OPERATED} == OPERATED


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_cluster_without_runs_says_so_beside_the_output(at_cluster, capsys, options):
    at_cluster({})
    assert main(["status", "--address", "auto", *options]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "raydqn: no run is active at auto\n")

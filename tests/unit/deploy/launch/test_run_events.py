"""Events of a run: on the view, in its log, and from there in its status."""

from __future__ import annotations

import json
import logging
import threading

import pytest

import deploy.program
from common.config_toml import merge
from common.errors import EnvironmentFailedError, RunFailedError, UserError
from deploy.cli.main import main
from deploy.launch.presets import make_config
from deploy.launch.resume import resume
from deploy.launch.run_events import MAX_WAITING, RunEvents
from deploy.launch.train import train
from deploy.runs.disk import Disk
from deploy.runs.folder import LOG, RunFolder
from deploy.runs.log import RunLog, detail_of, last_events
from support.program import TINY


class View:
    def __init__(self) -> None:
        self.events: list[tuple[str, int, str]] = []
        self.closed = False

    def update(self, report) -> None:
        pass

    def notify(self, text, level=logging.INFO, detail="") -> None:
        self.events.append((text, level, detail))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def view():
    return View()


def tiny(**over):
    quiet = {"evaluation": {"every_learner_steps": 10**6}, "stop": {"learner_steps": 20}}
    return make_config("cartpole", overrides=merge(TINY, merge(quiet, over)))


def texts_in(path):
    return [event["text"] for event in last_events(path, count=100)]


def test_the_view_gets_info_and_above_the_log_all_in_order(tmp_path, view):
    path, events = tmp_path / "run.log", RunEvents(view)
    events.notify("starting Ray …")
    events.record("attempt 1")
    events.open_log(path)
    events.notify("a hint", logging.DEBUG)
    events.notify("replaced", logging.WARNING, "because")
    events.close()
    assert view.events == [
        ("starting Ray …", logging.INFO, ""),
        ("replaced", logging.WARNING, "because"),
    ]
    assert view.closed
    assert texts_in(path) == ["starting Ray …", "attempt 1", "a hint", "replaced"]
    assert last_events(path)[-1]["detail"] == "because"


def test_an_event_of_a_signal_handler_waits_until_the_line_before_is_whole(tmp_path, view):
    path, events = tmp_path / "run.log", RunEvents(view)
    events.open_log(path)
    notify, nested = RunLog.notify, []

    def interrupted(self, text, *args):
        if not nested:
            nested.append(text)
            events.record("received SIGINT")  # as a handler does in the middle of a write
            assert not path.exists()
        notify(self, text, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "notify", interrupted)
        events.record("a line")
    events.close()
    assert texts_in(path) == ["a line", "received SIGINT"]


def test_a_message_of_rays_is_logged_without_colours_and_not_shown(tmp_path, view):
    events = RunEvents(view)
    events.open_log(tmp_path / "run.log")
    events.record_ray("\x1b[33mThe node is low on memory\x1b[0m: " + "x" * 200)
    events.record_ray("A worker died or was killed while executing a task")
    events.close()
    assert view.events == []
    low, death = last_events(tmp_path / "run.log")
    assert low["level"] == "WARNING"
    assert low["text"].startswith("Ray: The node is low on memory: xx")
    assert low["text"].endswith("…")
    assert low["detail"].endswith("x" * 200)
    assert death["level"] == "DEBUG", "the part's own event is shown"
    assert "\x1b" not in (tmp_path / "run.log").read_text()


def test_events_of_several_threads_are_all_written_once(tmp_path, view):
    events = RunEvents(view)
    events.open_log(tmp_path / "run.log")
    texts = [[f"{thread}.{number}" for number in range(100)] for thread in range(4)]
    threads = [
        threading.Thread(target=lambda own=own: [events.record(text) for text in own])
        for own in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events.close()
    found = [event["text"] for event in last_events(tmp_path / "run.log", count=1_000)]
    assert sorted(found) == sorted(text for own in texts for text in own)


def test_a_log_that_cannot_be_written_is_shown_once(tmp_path, view):
    events = RunEvents(view)
    (tmp_path / "run.log").symlink_to("/dev/full")
    events.open_log(tmp_path / "run.log")
    events.record("one")
    events.record("two")
    events.close()
    ((text, level, _),) = view.events
    assert level == logging.WARNING
    assert "No space left" in text


def test_events_wait_for_a_disk_that_hangs_and_the_log_says_how_many_are_missing(tmp_path, view):
    events, disk, answers = RunEvents(view), Disk(), threading.Event()
    disk.start()
    events.open_log(tmp_path / "run.log", disk)
    disk.submit(answers.wait)
    for number in range(MAX_WAITING + 2):
        events.record(f"event {number}")
    events.close()
    events.record("after the end")
    assert not (tmp_path / "run.log").exists()
    assert disk.waiting <= 3, "one for all events"
    answers.set()
    assert disk.finish(10)
    missing, first, *_, last = last_events(tmp_path / "run.log", count=2_000)
    assert missing["text"] == "too many events waited to be written: 2 events left out here"
    assert (first["text"], last["text"]) == ("event 2", f"event {MAX_WAITING + 1}")


def test_the_detail_of_an_error_holds_its_chain_and_the_causes_in_other_processes():
    class DiedError(Exception):
        detail = "Ray's whole text"

    def fail():
        try:
            raise EnvironmentFailedError("step() failed", "File env.py, line 3\n")
        except EnvironmentFailedError as error:
            try:
                raise DiedError("actor-0 died") from error
            except DiedError as died:
                raise RunFailedError("learner failed 4 times") from died

    with pytest.raises(RunFailedError) as caught:
        fail()
    detail = detail_of(caught.value)
    for part in ("learner failed 4 times", "in fail", "Ray's whole text", "File env.py, line 3"):
        assert part in detail


def test_a_run_logs_each_attempt_its_changes_and_how_it_stopped(tmp_path, view, capsys):
    run = tmp_path / "run"
    train(tiny(), run, view=view)
    copies = "environments: 4 in 1 actor, 2 for evaluations"
    assert [text for text, _, _ in view.events] == [copies, f"run folder: {run}"]
    first = texts_in(run / LOG)
    assert first[0].startswith("attempt 1: raydqn ")
    assert "one process, without Ray" in first[0]
    assert first[-1].startswith("ended after ")
    over = {"stop": {"learner_steps": 40}, "learner": {"samples_per_insert": 2.0}, "seed": 0}
    resume(run, over)
    resumed, changed, second, *_, last = texts_in(run / LOG)[len(first) :]
    assert resumed.startswith("resuming from checkpoint 000001-step-00000020 of ")
    assert changed == (
        "changed at this resume: seed 1 → 0, learner.samples_per_insert 4.0 → 2.0, "
        "stop.learner_steps 20 → 40"
    )
    assert second.startswith("attempt 2: ")
    assert "40 learner steps" in last
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["log"] == str(run / "run.log")
    assert [event["text"] for event in status["events"]] == [
        event["text"] for event in last_events(run / LOG, least=logging.INFO)
    ]
    assert status["events"][-1]["text"] == last
    assert main(["status", str(run)]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert f"log: {run / 'run.log'}" in out
    assert f"INFO {last}" in out


def test_an_error_is_logged_with_its_traceback(tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(tiny(), run)

    def broken(*args, **kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(deploy.program, "build", broken)
    with pytest.raises(ZeroDivisionError):
        resume(run, {"stop": {"learner_steps": 40}})
    event = last_events(run / LOG)[-1]
    assert (event["level"], event["text"]) == ("ERROR", "failed: ZeroDivisionError: ours")
    assert "in broken" in event["detail"]

    def mistaken(*args, **kwargs):
        raise UserError("env.id=x: unknown")

    monkeypatch.setattr(deploy.program, "build", mistaken)
    with pytest.raises(UserError):
        resume(run, {"stop": {"learner_steps": 40}})
    event = last_events(run / LOG)[-1]
    assert (event["level"], event["text"]) == ("ERROR", "error: env.id=x: unknown")
    assert event["detail"] == ""


def test_a_second_process_writes_nothing_into_the_log_of_a_running_run(tmp_path):
    run = tmp_path / "run"
    train(tiny(), run)
    before = (run / LOG).read_bytes()
    with RunFolder.open(run).lock(), pytest.raises(UserError, match="another process"):
        resume(run, {"stop": {"learner_steps": 40}})
    assert (run / LOG).read_bytes() == before


def test_the_log_is_closed_even_if_the_view_cannot_be(tmp_path, view, monkeypatch):
    def fail() -> None:
        raise OSError("no space left on standard output")

    events = RunEvents(view)
    events.open_log(tmp_path / LOG)
    events.record("begun")
    monkeypatch.setattr(view, "close", fail)
    with pytest.raises(OSError, match="no space left"):
        events.close()
    events.record("after the end")
    assert texts_in(tmp_path / LOG) == ["begun"]


def test_a_resume_may_replace_a_recorded_value_that_is_no_longer_valid(tmp_path, view):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 30}), run)
    config = run / "config.toml"
    text = config.read_text()
    assert "learning_rate = " in text
    lines = [
        "learning_rate = -1.0" if line.startswith("learning_rate = ") else line
        for line in text.splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="learning_rate"):
        resume(run)
    over = {"learner": {"learning_rate": 0.001}, "stop": {"learner_steps": 40}}
    assert resume(run, over, view=view)["learner_steps"] >= 40

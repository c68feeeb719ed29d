"""A run folder on a disk that hangs: the run continues, reports wait, and a stop is bounded."""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from actors.environments import environment_spec
from common.errors import RunFailedError
from deploy.launch.run import run_parts
from deploy.runs.folder import CONTROL, LOG, SUMMARY, RunFolder
from deploy.runs.log import last_events
from deploy.runs.metrics_file import read_metrics
from deploy.runs.run_status import read_ended
from deploy.supervisor.loop import Supervisor
from deploy.supervisor.timeouts import Timeouts
from support.fakes import Messages, SideBySide, supervisor_for, tiny
from support.hanging_disk import hanging_disk

NO_EVALUATION = {"every_learner_steps": 10**6, "episodes": 2, "envs": 2}
LITTLE_ACTING = {"samples_per_insert": 16.0}
FOREVER = {"learner_steps": None, "score": None, "wall_s": 60.0}


@pytest.fixture(autouse=True)
def _tensorboard_is_imported():
    """Otherwise the thread of the disk does so with the first report, and takes a second."""
    importlib.import_module("tensorboard.summary.writer.record_writer")
    importlib.import_module("tensorboard.compat.proto.event_pb2")


class Watching(Messages):
    """A view that keeps all reports, and has the disk hang after 50 learner steps."""

    def __init__(self, disk) -> None:
        super().__init__()
        self.disk = disk
        self.supervisor = None
        self.reports = []
        self.hung_at = None  # learner steps

    def update(self, report) -> None:
        self.reports.append(report)
        if self.hung_at is None and report["learner_steps"] >= 50:
            self.hung_at = report["learner_steps"]
            self.begin()
            self.disk.hang()
        elif self.hung_at is not None:
            self.look(report["learner_steps"] - self.hung_at)

    def begin(self) -> None:
        """Before the disk hangs."""

    def look(self, steps) -> None:
        """The learner has made so many steps since."""

    def has(self, text) -> bool:
        return any(text in line for line in self.lines)


def run_on(view, run, monkeypatch, timeouts, **over):
    """Train on a fake of Ray, where the disk has a thread of its own."""

    def supervisor(*arguments):
        view.supervisor = Supervisor(*arguments, timeouts=Timeouts(**timeouts))
        return view.supervisor

    monkeypatch.setattr("deploy.launch.run.Supervisor", supervisor)
    config = tiny(stop=FOREVER, evaluation=NO_EVALUATION, learner=LITTLE_ACTING, **over)
    folder = RunFolder.create(run, config)
    spec = environment_spec(config.env)
    return run_parts(folder, spec, None, SideBySide(), view, time.monotonic())


class Answering(Watching):
    """While the disk hangs, kills an actor; has the disk answer when that actor is replaced."""

    def begin(self) -> None:
        (Path(self.disk.folder) / CONTROL).write_text("[learner]\nsamples_per_insert = 8.0\n")
        (actor,) = self.supervisor.fleet.actors
        self.supervisor.context.runtime.crash(actor.handle)

    def look(self, steps) -> None:
        if self.disk.hangs:
            if steps > 100 and self.has("an access has taken") and self.has("restarted"):
                assert sum("an access has taken" in line for line in self.lines) == 1, "once"
                self.answered_at = len(self.reports)
                self.disk.answer()
        elif self.has("responds again") and self.has("applied"):
            self.supervisor.request_stop("interrupted")


def test_a_disk_that_hangs_stops_nothing_and_gets_all_reports_later(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with hanging_disk(run, monkeypatch) as disk:
        view = Answering(disk)
        timeouts = {"disk_warning_s": 0.8, "control_every_s": 0.05, "status_every_s": 0.05}
        summary = run_on(view, run, monkeypatch, timeouts)
        assert disk.of_main_thread() == set()
    told = [(level, text) for level, text, _ in view.events if "the run folder" in text]
    assert [level for level, _ in told][:2] == [logging.WARNING, logging.INFO], told
    assert re.fullmatch(
        rf"the run folder {run}: an access has taken \d s; the run continues, reports wait in "
        "memory",
        told[0][1],
    )
    # All that was reported is on disk, in its order, as soon as the run has ended.
    assert len(view.reports) > view.answered_at > 2
    on_disk = [report["wall_s"] for report in read_metrics(run)]
    assert on_disk == [report["wall_s"] for report in view.reports]
    logged = [event["text"] for event in last_events(run / LOG, 100)]
    at = [next(i for i, text in enumerate(logged) if part in text) for part in (
        "actor-0 died", "an access has taken", "responds again", "ended after")]  # fmt: skip
    assert at == sorted(at)
    assert read_ended(RunFolder.open(run))["stop_reason"] == "interrupted"
    assert json.loads((run / SUMMARY).read_text())["learner_steps"] == summary["learner_steps"]
    # A request that came when the disk began to hang was applied, and recorded, after that.
    assert RunFolder.open(run).config.learner.samples_per_insert == 8.0
    assert not (run / CONTROL).exists()
    assert not RunFolder.open(run).is_running()


class LosingLearner(Watching):
    """Kills the learner when the disk is known to hang; has it answer some reports later."""

    until = math.inf

    def look(self, steps) -> None:
        supervisor = self.supervisor
        if not self.disk.hangs:
            if self.has("learner died"):
                supervisor.request_stop("interrupted")
        elif self.until == math.inf and supervisor.context.folder.disk.hangs:
            supervisor.context.runtime.crash(supervisor.fleet.learner.handle)
            self.until = len(self.reports) + 10
        elif len(self.reports) > self.until:
            self.disk.answer()


def test_a_learner_that_dies_then_is_restored_when_the_disk_answers(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with hanging_disk(run, monkeypatch) as disk:
        view = LosingLearner(disk)
        timeouts = {"restore_retry_s": 0.05}
        checkpoint = {"every_s": 0.05}
        summary = run_on(view, run, monkeypatch, timeouts, checkpoint=checkpoint)
        assert disk.of_main_thread() == set()
    assert view.has("learner cannot be restored yet: ")
    assert view.has("checkpoints: does not respond; retrying for 300 s")
    assert any(line.startswith("learner died") for line in view.lines if "; restarted" in line)
    assert summary["learner_steps"] > 0
    names = RunFolder.open(run).checkpoints.names()
    assert int(names[-1].rpartition("-")[2]) == summary["learner_steps"]
    after = [b["learner_steps"] for a, b in pairwise(view.reports)
             if b["learner_steps"] < a["learner_steps"]]  # fmt: skip
    assert after
    assert all(after), "from a checkpoint, not from nothing"


class Stopping(Watching):
    """Sends a signal while the disk hangs."""

    signalled_s = 0.0

    def look(self, steps) -> None:
        if steps > 50 and not self.signalled_s:
            self.signalled_s = time.monotonic()
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("elsewhere", [True, False], ids=["checkpoints elsewhere", "in the folder"])
def test_a_signal_ends_a_run_whose_disk_never_answers(tmp_path, monkeypatch, elsewhere):
    run, storage = tmp_path / "run", tmp_path / "storage"
    with hanging_disk(run, monkeypatch) as disk:
        view = Stopping(disk)
        timeouts = {"disk_warning_s": 0.2, "disk_s": 0.5, "save_s": 1.0, "failed_save_s": 0.2}
        checkpoint = {"storage": str(storage)} if elsewhere else {}
        with pytest.raises(RunFailedError) as caught:
            run_on(view, run, monkeypatch, timeouts, checkpoint=checkpoint)
        assert time.monotonic() - view.signalled_s < 15.0
        assert disk.hangs
        assert disk.of_main_thread() == set()
        assert view.lines[-1].startswith(f"the run folder {run}: its disk has not responded for ")
        if elsewhere:
            assert "the disk of the run folder has not responded in 0.5 s; to con" in str(
                caught.value
            )
        else:
            assert "the last checkpoint was not written within 1 s; to continue when" in str(
                caught.value
            )
    # In the folder, the thread that waits for the disk writes it when the disk answers at last.
    assert len(RunFolder.open(run).checkpoints.names()) == 1


def test_a_change_that_was_not_applied_is_not_recorded_either(tmp_path):
    """The run ends between the record of a change and the tick that would apply it."""
    supervisor = supervisor_for(tiny(stop={"learner_steps": 20}), tmp_path / "run")
    folder, replies, answers = supervisor.context.folder, [], threading.Event()
    folder.disk.start()
    folder.disk.submit(lambda: answers.wait(60))
    supervisor.control.apply({"learner": {"samples_per_insert": 8.0}}, replies.append)
    answers.set()
    assert folder.disk.flush(10)
    assert RunFolder.open(folder.path).config.learner.samples_per_insert == 8.0
    supervisor.control.close()
    assert folder.disk.finish(10)
    assert RunFolder.open(folder.path).config == folder.config
    assert [str(reply) for reply in replies] == ["the run has ended; nothing was changed"]

"""What a run writes, and how it ends."""

from __future__ import annotations

import json
import time

import pytest

from common.checkpoint import CheckpointStore
from common.errors import RunFailedError, UserError
from common.parts import LEARNER, shard
from deploy.cli.main import main
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs.folder import LOG, RunFolder
from deploy.runs.log import last_events
from deploy.runs.metrics_file import MetricsWriter, read_metrics
from deploy.runs.run_status import read_ended
from support.fakes import (
    Messages,
    SideBySide,
    saved_counters,
    supervisor_for,
    supervisor_that_resumes,
    tiny,
    use_timeouts,
)
from support.program import checkpoints_in, reports_in


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    commit, failures = CheckpointStore.commit, []

    def disk_full_at_first(self, name, tensors, state, files=None):
        if len(failures) < 2:
            failures.append(int(name.rpartition("-")[2]))
            raise OSError(28, "No space left on device", self.storage.url)
        commit(self, name, tensors, state, files)

    monkeypatch.setattr(CheckpointStore, "commit", disk_full_at_first)
    view = Messages()
    config = tiny(
        stop={"learner_steps": 80}, checkpoint={"every_s": None, "every_learner_steps": 20}
    )
    supervisor_for(config, tmp_path / "run", view).run()
    said = [line for line in view.lines if "could not be written" in line]
    assert len(said) == 2
    assert failures[1] - failures[0] >= 20, "tried again when the next one is due, not at once"
    assert "No space left" in said[0]
    assert checkpoints_in(tmp_path / "run").newest().state["counters"]


def test_inline_all_actors_are_ready_even_if_an_attempt_begins_at_the_very_end(tmp_path):
    stop = {"learner_steps": 50}
    config = tiny(stop=stop, checkpoint={"every_s": None, "every_learner_steps": 50})
    supervisor_for(config, tmp_path / "run").run()
    told = [(report["actors"], report["actors_up"]) for report in reports_in(tmp_path / "run")]
    assert set(told) == {(1, 1)}


def test_a_checkpoint_that_cannot_be_written_ends_the_run_where_that_is_wished(
    tmp_path, monkeypatch
):
    def disk_full(self, name, tensors, state, files=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "commit", disk_full)
    config = tiny(
        stop={"learner_steps": 200}, checkpoint={"every_learner_steps": 20, "on_failure": "stop"}
    )
    supervisor = supervisor_for(config, tmp_path / "run")
    with pytest.raises(RunFailedError, match=r"checkpoint could not be written: .*No space left"):
        supervisor.run()
    assert 20 <= supervisor.context.counters.learner_steps < 60


def test_reports_and_best_weights_that_cannot_be_written_do_not_end_the_run(tmp_path, monkeypatch):
    write, save_best, failures = MetricsWriter.write, RunFolder.save_best, []

    def full(real):
        def at_first(*arguments):
            if "save_best" not in failures:
                failures.append(real.__name__)
                raise OSError(28, "No space left on device", "metrics.jsonl")
            return real(*arguments)

        return at_first

    monkeypatch.setattr(MetricsWriter, "write", full(write))
    monkeypatch.setattr(RunFolder, "save_best", full(save_best))
    view = Messages()
    run = tmp_path / "run"
    config = tiny(
        stop={"learner_steps": 60},
        evaluation={"every_learner_steps": 20, "episodes": 2, "envs": 2},
        report={"every_s": 0.001},
    )
    supervisor_for(config, run, view).run()
    said = [line for line in view.lines if "No space left" in line]
    assert said == [
        f"{run}: cannot be written: [Errno 28] No space left on device: 'metrics.jsonl'; the "
        "run continues"
    ]
    assert set(failures) == {"write", "save_best"}
    assert read_metrics(run)[-1]["learner_steps"] == 60, "written again when it can be"


def test_a_last_checkpoint_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    def disk_full(self, name, tensors, state, files=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "commit", disk_full)
    supervisor = supervisor_for(tiny(stop={"learner_steps": 20}), tmp_path / "run")
    with pytest.raises(RunFailedError, match=r"No space left on device.*no checkpoint yet"):
        supervisor.run()


def test_a_resume_that_is_interrupted_while_it_warms_up_keeps_its_counters(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    before = saved_counters(run)

    class Interrupting(Messages):
        def update(self, report) -> None:
            if report["env_steps"] > before["env_steps"]:
                supervisor.request_stop("interrupted")

    over = {"learner": {"warmup_transitions": 1_900}, "stop": {"learner_steps": None}}
    supervisor = supervisor_that_resumes(run, Interrupting(), over)
    summary = supervisor.run()
    assert summary["stop_reason"] == "interrupted"
    after = saved_counters(run)
    assert after["learner_steps"] == before["learner_steps"], "still warming up"
    assert after["env_steps"] == summary["env_steps"] > before["env_steps"]
    assert after["wall_s"] > before["wall_s"]


def test_nothing_is_saved_again_where_nothing_was_done(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    (path,) = (run / "checkpoints").glob("*-step-*")
    before = (path / "manifest.json").stat().st_mtime_ns
    supervisor = supervisor_that_resumes(run)
    supervisor.request_stop("interrupted")
    supervisor.run()
    assert list((run / "checkpoints").glob("*-step-*")) == [path]
    assert (path / "manifest.json").stat().st_mtime_ns == before


def test_a_stop_that_is_asked_for_hands_out_nothing_more(tmp_path):
    supervisor = supervisor_for(tiny(), tmp_path / "run")
    supervisor.request_stop("interrupted")
    supervisor.request_stop("terminated")
    summary = supervisor.run()
    assert summary["stop_reason"] == "interrupted"
    assert summary["env_steps"] == 0
    assert summary["learner_steps"] == 0
    assert summary["score"] is None


def test_a_run_that_ends_by_a_count_is_evaluated_at_its_end(tmp_path):
    summary = train(tiny(stop={"learner_steps": 130}), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert last["score"] == pytest.approx(summary["score"], abs=1e-3)
    folder = RunFolder.open(tmp_path / "run")
    _, meta = folder.load_best()
    assert 100 <= int(meta["learner_steps"]) <= 130


def test_an_evaluation_that_does_not_end_holds_up_neither_the_clock_nor_the_reports(
    tmp_path, endless, monkeypatch
):
    use_timeouts(monkeypatch, evaluation_slice_s=0.1)
    start = time.monotonic()
    summary = train(
        tiny(env=endless, evaluation={"every_learner_steps": 10}, stop={"wall_s": 1.2}),
        tmp_path / "run",
    )
    assert summary["stop_reason"] == "wall_s"
    assert time.monotonic() - start < 8, "27,000 steps of 5 copies take far longer"
    assert sum(line["evaluating"] for line in read_metrics(tmp_path / "run")) > 1


def test_a_signal_ends_the_last_evaluation(tmp_path, endless):
    class Interrupting(Messages):
        def update(self, report) -> None:
            if report["evaluating"]:
                supervisor.request_stop("interrupted")

    config = tiny(env=endless, stop={"learner_steps": 10})
    supervisor = supervisor_for(config, tmp_path / "run", Interrupting())
    start = time.monotonic()
    summary = supervisor.run()
    assert time.monotonic() - start < 10
    assert summary["stop_reason"] == "learner_steps"
    assert summary["score"] is None
    assert checkpoints_in(tmp_path / "run").newest()


def test_a_start_that_fails_leaves_no_folder_and_an_empty_one_of_the_users(tmp_path, monkeypatch):
    def no_start(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.program.build", no_start)
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in (tmp_path / "run", mine):
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), path)
    assert not (tmp_path / "run").exists()
    assert list(mine.iterdir()) == []


# --- how a run ended --------------------------------------------------------------------------


def ended(run):
    """What `raydqn status` knows of a run that has ended."""
    return read_ended(RunFolder.open(run))


def test_a_run_that_fails_records_the_error_and_the_newest_counters(tmp_path, fading, capsys):
    run = tmp_path / "run"
    fading.at, fading.fuel = ("step",), 500
    config = tiny(env={"id": "fading_envs:Fading-v0"}, stop={"learner_steps": 10**6})
    with pytest.raises(RunFailedError) as caught:
        train(config, run)
    status = ended(run)
    assert status["stop_reason"] == "failed"
    assert status["error"] == str(caught.value)
    last = read_metrics(run)[-1]
    assert status["env_steps"] >= last["env_steps"] > 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["weights_sha256"] is None, "the last weights are not known"
    assert main(["status", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"run: failed: {caught.value}\n")
    # It resumes as before, and the record is of the newest attempt alone.
    fading.at = ()
    steps = saved_counters(run)["learner_steps"]
    resume(run, {"stop": {"learner_steps": steps + 20}})
    assert ended(run)["stop_reason"] == "learner_steps"
    assert "error" not in ended(run)


def test_a_driver_that_is_killed_leaves_no_record_of_an_earlier_end(tmp_path, monkeypatch):
    class KilledError(BaseException):
        """Nothing of the program runs any more, except in this test."""

    class Killing(Messages):
        def update(self, report) -> None:
            raise KilledError

    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    monkeypatch.setattr(RunFolder, "write_summary", lambda self, summary: None)
    with pytest.raises(KilledError):
        resume(run, {"stop": {"learner_steps": 400}}, view=Killing())
    assert "stop_reason" not in ended(run)


def test_a_run_that_fails_before_its_first_report_keeps_its_log_and_can_be_repeated(
    tmp_path, monkeypatch, capsys
):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("in a part")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("deploy.program.build", broken)
        with pytest.raises(ZeroDivisionError):
            train(tiny(), run)
    assert ended(run)["error"] == "ZeroDivisionError: in a part"
    assert main(["status", str(run)]) == 0
    assert "run: failed: ZeroDivisionError: in a part\n" in capsys.readouterr().out
    summary = train(tiny(stop={"learner_steps": 20}), run)
    texts = [event["text"] for event in last_events(run / LOG, count=100)]
    begun = [text for text in texts if text.startswith("attempt 1: ")]
    assert len(begun) == 2, "the log of both"
    assert "failed: ZeroDivisionError: in a part" in texts
    fresh = train(tiny(stop={"learner_steps": 20}), tmp_path / "another")
    assert summary["weights_sha256"] == fresh["weights_sha256"]


def test_parts_that_cannot_start_leave_the_log_and_no_empty_checkpoint(tmp_path, fading):
    run = tmp_path / "run"
    fading.at, fading.fuel = ("step",), 3  # one step is tried before the run begins
    config = tiny(env={"id": "fading_envs:Fading-v0"})
    with pytest.raises(RunFailedError, match="there is no checkpoint yet"):
        train(config, run)
    assert ended(run)["stop_reason"] == "failed"
    fading.at = ()
    train(tiny(env={"id": "fading_envs:Fading-v0"}, stop={"learner_steps": 20}), run)
    assert ended(run)["stop_reason"] == "learner_steps"


def test_a_mistake_of_the_users_leaves_nothing_and_keeps_the_log_of_the_start_before(
    tmp_path, monkeypatch
):
    def mistaken(*args, **kwargs):
        raise UserError("env.id=x: unknown")

    def broken(*args, **kwargs):
        raise ZeroDivisionError("in a part")

    run = tmp_path / "run"
    monkeypatch.setattr("deploy.program.build", mistaken)
    with pytest.raises(UserError):
        train(tiny(), run)
    assert not run.exists()
    monkeypatch.setattr("deploy.program.build", broken)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), run)
    monkeypatch.setattr("deploy.program.build", mistaken)
    for _ in range(2):
        with pytest.raises(UserError, match="unknown"):
            train(tiny(), run)
    texts = [event["text"] for event in last_events(run / LOG, count=100)]
    assert "failed: ZeroDivisionError: in a part" in texts
    assert ended(run)["error"] == "env.id=x: unknown", "of the newest start"


def test_an_interrupt_at_once_is_no_silent_end(tmp_path):
    class Interrupting(Messages):
        def update(self, report) -> None:
            if report["learner_steps"] > 20:
                raise KeyboardInterrupt  # as the second signal does

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "run", view=Interrupting())
    assert ended(tmp_path / "run")["stop_reason"] == "aborted"


def test_a_report_of_a_part_that_none_calls_is_named_and_ignored(tmp_path):
    view = Messages()
    supervisor = supervisor_for(tiny(), tmp_path / "run", view)
    supervisor.recovery.note_unreachable(supervisor.fleet.actors[0], [LEARNER, shard(7), shard(0)])
    assert view.lines == [
        f"actor-0 reports {part} as unreachable, which no part calls: ignored"
        for part in (LEARNER, shard(7))
    ]
    assert [part for _, part in supervisor.recovery.to_reconnect] == [shard(0)]


@pytest.mark.parametrize(("steps", "begins"), [(39, False), (199, True), (200, False)])
def test_a_checkpoint_that_falls_due_at_the_end_of_a_run_is_left_to_the_last_one(
    tmp_path, monkeypatch, steps, begins
):
    """Else the state of the last step is written twice, minutes for a large memory."""
    config = tiny(
        stop={"learner_steps": 200}, checkpoint={"every_learner_steps": 40, "every_s": None}
    )
    supervisor = supervisor_for(config, tmp_path / "run", Messages(), SideBySide())
    for slot in (*supervisor.fleet.shards, supervisor.fleet.learner):
        slot.ready = True
    supervisor.context.counters.learner_steps = steps
    begun = []
    monkeypatch.setattr(supervisor.checkpoints, "begin", lambda **options: begun.append(options))
    assert list(supervisor.checkpoints.write_if_due(time.monotonic(), evaluating=False)) == []
    assert bool(begun) == begins

"""Parts that die or hang at the worst time: the storage unreadable, the run nearly over.

In one process, as on Ray: answers may come late, and errors come with the answers.
"""

from __future__ import annotations

import re
import threading
import time

import pytest

from common.checkpoint import CheckpointStore
from common.errors import CheckpointError, RunFailedError, StorageError
from common.handles import Failed
from common.parts import EVALUATOR, LEARNER, WEIGHT_STORE, part_name, shard
from common.storage import LocalStorage
from deploy.launch.train import train
from deploy.runtime.inline import InlineRuntime
from support.fakes import (
    Crashing,
    HostedRuntime,
    Messages,
    Never,
    SideBySide,
    Silent,
    sound_checkpoints,
    supervisor_for,
    supervisor_that_resumes,
    tiny,
)

NO_EVALUATION = {"every_learner_steps": 10**6, "episodes": 2, "envs": 2}
STEPS, DIE_AFTER_STEPS = 160, 50


def config_for(**over):
    return tiny(
        **{
            "stop": {"learner_steps": STEPS},
            "actors": {"chunk_steps": 2},  # soon both shards hold something
            "replay": {"shards": 2},
            "learner": {"samples_per_insert": 16.0},
            "checkpoint": {"every_learner_steps": 20, "every_s": None},
            "evaluation": NO_EVALUATION,
            "report": {"every_s": 0.01},  # parts die at a report: soon after these steps
        }
        | over
    )


SOON = {"restore_retry_s": 0.01, "failed_save_s": 0.2}


def crashing(path, parts, runtime, view=None, timeouts=None, **over):
    """A supervisor, and a view that kills those parts."""
    view = view or Crashing(parts, DIE_AFTER_STEPS)
    timeouts = SOON | (timeouts or {})
    view.supervisor = supervisor_for(config_for(**over), path, view, runtime, **timeouts)
    return view.supervisor, view


# --- the storage is away when a part dies -------------------------------------------------------


class Outage(Crashing):
    """When the parts die, the storage cannot be listed for some tries, counted from the warning."""

    def __init__(self, parts, monkeypatch, tries, what="error") -> None:
        super().__init__(parts, DIE_AFTER_STEPS)
        self.tries, self.begun = tries, False
        self.names: list[str] = []
        sizes = LocalStorage.sizes

        def flaky(storage):
            if not self.begun:
                return sizes(storage)
            if any("cannot be restored yet" in line for line in self.lines):
                self.tries -= 1
            if self.tries < 0:
                return sizes(storage)
            if what == "empty":
                return {}  # as a disk that is not mounted
            raise StorageError("s3://bucket/run: connection reset")

        monkeypatch.setattr(LocalStorage, "sizes", flaky)

    def update(self, report) -> None:
        if self.parts and report["learner_steps"] >= self.after_steps:
            store = self.supervisor.context.folder.checkpoints
            while not self.supervisor.settle_checkpoint(5.0):
                pass
            self.names, self.begun = store.names(), True
        super().update(report)


@pytest.mark.parametrize("part", [LEARNER, shard(1)], ids=str)
@pytest.mark.parametrize(
    ("what", "runtime"),
    [("error", InlineRuntime), ("error", SideBySide), ("empty", SideBySide)],
    ids=["error-inline", "error", "empty"],
)
def test_a_part_that_dies_while_the_storage_is_away_comes_back_when_it_is_back(
    tmp_path, monkeypatch, part, runtime, what
):
    view = Outage([part], monkeypatch, 2, what)
    steps = STEPS if part == LEARNER else 160  # the learner continues meanwhile
    stop = {"learner_steps": steps}
    supervisor, _ = crashing(tmp_path / "run", None, runtime(), view, stop=stop)
    summary = supervisor.run()
    assert summary["learner_steps"] == steps
    assert summary["restarts"] == 1
    newest = int(view.names[-1].rpartition("-")[2])
    if part == LEARNER:
        assert view.looked[LEARNER] == newest > 0, "from its newest checkpoint, not from nothing"
    else:
        assert view.looked[shard(1)].size > 0
    said = [line for line in view.lines if line.startswith(f"{part} cannot be restored yet: ")]
    assert len(said) == 1, "once, however often it is tried"
    assert sound_checkpoints(supervisor)


def test_a_storage_that_stays_away_ends_the_run_and_costs_no_checkpoint(tmp_path, monkeypatch):
    view = Outage([LEARNER], monkeypatch, 10**9)
    supervisor, _ = crashing(tmp_path / "run", None, SideBySide(), view, {"unreadable_s": 0.4})
    with pytest.raises(RunFailedError, match=r"learner cannot be restored: .*connection reset"):
        supervisor.run()
    view.tries = 0
    assert sound_checkpoints(supervisor) == view.names


def test_a_shard_that_cannot_read_its_part_for_a_while_comes_back_with_it(tmp_path, monkeypatch):
    view = Crashing([shard(1)], DIE_AFTER_STEPS)
    stop = {"learner_steps": 160}  # the learner continues meanwhile
    supervisor, _ = crashing(tmp_path / "run", None, HostedRuntime(), view, stop=stop)
    read, failures = LocalStorage.read, []

    def flaky(storage, name):
        if name.endswith("shard-1.rdqn") and not view.parts and len(failures) < 3:
            failures.append(name)
            raise OSError(5, "Input/output error")
        return read(storage, name)

    monkeypatch.setattr(LocalStorage, "read", flaky)
    view.looks = False
    summary = supervisor.run()
    assert len(failures) == 3
    assert summary["learner_steps"] == 160
    assert supervisor.restore_source.corrupt == set(), "not for good: the storage was to blame"
    assert supervisor.restore_source.restored_from[shard(1)]
    assert not any("starts empty" in line for line in view.lines)
    assert sound_checkpoints(supervisor)


def test_a_learner_without_a_sound_checkpoint_does_not_begin_at_step_0(tmp_path):
    class Damaging(Crashing):
        def update(self, report) -> None:
            if self.parts and report["learner_steps"] >= self.after_steps:
                self.supervisor.settle_checkpoint(5.0)
                for path in (tmp_path / "run").glob("checkpoints/*-step-*/learner.safetensors"):
                    path.write_bytes(path.read_bytes()[:-1] + b"?")
            super().update(report)

    view = Damaging([LEARNER], DIE_AFTER_STEPS)
    supervisor, _ = crashing(tmp_path / "run", None, InlineRuntime(), view)
    with pytest.raises(
        RunFailedError, match="learner cannot be restarted: every checkpoint is corrupt"
    ):
        supervisor.run()
    assert supervisor.context.folder.checkpoints.names(), "they may still be repaired"


def test_a_checkpoint_that_goes_while_it_is_read_is_not_damaged_its_successor_is_read(
    tmp_path, monkeypatch
):
    keep = {"every_learner_steps": 20, "every_s": None, "keep": 1}
    supervisor, view = crashing(tmp_path / "run", [LEARNER], InlineRuntime(), checkpoint=keep)
    load, overtaken = CheckpointStore.load, []

    def late(store, name):
        if not overtaken:
            overtaken.append(name)
            found = load(store, name)
            other = CheckpointStore(store.storage, 1)
            files = {k: v for k, v in found.files.items() if not k.startswith(name)}
            state = {**found.state, "shards": 0}
            other.commit(other.new_name(999), found.tensors, state, files)
        return load(store, name)

    monkeypatch.setattr(CheckpointStore, "load", late)
    assert supervisor.run()["learner_steps"] == STEPS
    assert view.looked[LEARNER] > 0
    assert supervisor.restore_source.corrupt == set()


def test_a_file_that_is_corrupt_for_one_part_says_nothing_of_others_or_of_other_checkpoints(
    tmp_path,
):
    supervisor = supervisor_for(config_for(), tmp_path / "run", Messages(), HostedRuntime())
    supervisor.run()
    *_, before, newest = supervisor.context.folder.checkpoints.names()
    source = supervisor.restore_source
    source.restored_from[shard(1)] = before  # when that was the newest
    assert source.newest(LEARNER).name == newest
    # Now comes the news that the shard's file was corrupt there.
    source.mark_corrupt(shard(1), CheckpointError(f"{before}/shard-1.rdqn: corrupt"))
    assert source.newest(shard(1)).name == newest
    assert source.restored_from[shard(1)] == newest
    source.mark_corrupt(shard(1), CheckpointError(f"{newest}/shard-1.rdqn: corrupt"))
    assert source.newest(LEARNER).name == newest, "its own part is sound"
    assert source.newest(shard(0)).name == newest
    older = source.newest(shard(1))
    assert older is None or older.name < before


# --- one shard of several -----------------------------------------------------------------------


class Starting(SideBySide):
    """One part takes long until it is ready."""

    def __init__(self, name) -> None:
        self.name = name

    def spawned(self, name, handle):
        if name == self.name:
            self.silent = handle


def test_the_learner_continues_with_the_other_shards_until_one_is_back(tmp_path):
    view = Crashing([shard(1)], DIE_AFTER_STEPS)
    view.looks = view.waits = False
    supervisor, _ = crashing(
        tmp_path / "run",
        None,
        Starting(part_name(shard(1), 1)),
        view,
        stop={"learner_steps": STEPS, "wall_s": 60.0},
        learner={"samples_per_insert": 16.0, "stall_timeout_s": 4.0},
    )
    assert supervisor.run()["stop_reason"] == "learner_steps"
    assert not supervisor.fleet.shards[1].ready
    # Learner and actor, however often each of them reported the loss.
    assert len(supervisor.recovery.to_reconnect) == 2


def test_a_shard_that_is_busy_when_it_is_asked_for_its_size_answers_later(tmp_path):
    class Answer:
        def __init__(self, answer) -> None:
            self.answer, self.from_s = answer, time.monotonic() + 0.05

        def done(self) -> bool:
            return time.monotonic() > self.from_s

        def result(self):
            assert self.done(), "waiting for it would block the loop"
            return self.answer.result()

    supervisor, view = crashing(
        tmp_path / "run",
        [shard(0), shard(1)],
        SideBySide(),
        checkpoint={"every_learner_steps": None, "every_s": None},
        stop={"learner_steps": 400},
    )
    view.looks = False
    begun, asked = [], []
    reset = supervisor.context.limiter.reset
    supervisor.context.limiter.reset = lambda held: (begun.append(held), reset(held))
    spawn = supervisor.context.program.spawn_shard

    def busy(*args):
        handle = spawn(*args)
        call = handle.call

        def late(method, *rest):
            answer = call(method, *rest)
            if method != "summary" or threading.current_thread() is not threading.main_thread():
                return answer
            if not supervisor.memory.due or len(asked) > 1:
                return answer
            asked.append(method)
            return Answer(answer)

        handle.call = late
        return handle

    supervisor.context.program.spawn_shard = busy
    assert supervisor.run()["learner_steps"] == 400
    assert asked
    assert begun
    assert not supervisor.memory.due


# --- what counts as a failure -------------------------------------------------------------------


PROGRESS_STEPS = 30
"""Learner steps in which the learner reports twice, as a part needs it to have made progress."""


class Again(Crashing):
    """Kills one part again and again, each time after some progress; then the run may end."""

    def __init__(self, part, times) -> None:
        super().__init__([part])
        self.looks = False
        self.part, self.times, self.next_steps = part, times, PROGRESS_STEPS

    def update(self, report) -> None:
        one, steps = self.supervisor, report["learner_steps"]
        slot = self.slot(self.part)
        pending = one.needs_reconnection(slot)
        if not slot.ready or slot.suspect or pending:
            self.next_steps = steps + PROGRESS_STEPS
        elif steps >= self.next_steps and self.times:
            self.times, self.next_steps = self.times - 1, float("inf")
            one.context.runtime.crash(slot.handle)
        elif steps >= self.next_steps:
            one.request_stop("terminated")

    def notify(self, text, *more) -> None:
        super().notify(text, *more)
        if "restarted" in text:
            self.next_steps = self.supervisor.context.counters.learner_steps + PROGRESS_STEPS


@pytest.mark.parametrize("part", [shard(1), WEIGHT_STORE, LEARNER], ids=str)
def test_a_part_that_works_in_each_short_incarnation_may_die_often(tmp_path, part):
    view = Again(part, 4)  # one more than may fail in a row
    supervisor, _ = crashing(
        tmp_path / "run",
        None,
        SideBySide(),
        view,
        stop={"learner_steps": None, "wall_s": 60.0},
        # A shard that gets nothing makes no progress.
        learner={"samples_per_insert": 4.0, "train_steps": 5},
    )
    summary = supervisor.run()
    assert summary["stop_reason"] == "terminated", view.lines
    assert summary["restarts"] == 4


def failing(supervisor, at):
    """Have the learner fail with an error of its own whenever `at(learner steps)`."""
    spawn = supervisor.context.program.spawn_learner

    def bad(handle):
        call = handle.call

        def train_badly(method, *args):
            if method == "train" and at(supervisor.context.counters.learner_steps):
                return Failed(RuntimeError("CUDA error: uncorrectable ECC error"))
            return call(method, *args)

        handle.call = train_badly
        return handle

    supervisor.context.program.spawn_learner = lambda *args: bad(spawn(*args))
    bad(supervisor.fleet.learner.handle)


def test_a_learner_that_fails_by_an_error_of_its_own_is_replaced(tmp_path):
    stop = {"learner_steps": 120}
    supervisor, view = crashing(tmp_path / "run", [], HostedRuntime(), stop=stop)
    at = [15, 35, 55, 75, 95]
    failing(supervisor, lambda steps: bool(at) and steps >= at[0] and bool(at.pop(0)))
    summary = supervisor.run()
    assert summary["learner_steps"] == 120
    assert summary["restarts"] == 5, "each time it had got further"
    assert "learner failed: CUDA error: uncorrectable ECC error; restarted" in view.lines


def test_a_learner_that_fails_at_the_same_step_again_and_again_ends_the_run(tmp_path):
    supervisor, view = crashing(tmp_path / "run", [], HostedRuntime())
    failing(supervisor, lambda steps: steps >= 25)
    with pytest.raises(RunFailedError, match=r"learner failed 4 times in a row; .*CUDA error"):
        supervisor.run()
    # The learner may have been a little ahead of what was reported, and saved so: it got on.
    assert 3 <= sum("restarted" in line for line in view.lines) <= 8
    assert sound_checkpoints(supervisor)


def test_versions_go_up_however_many_a_call_publishes(tmp_path):
    config = config_for(learner={"train_steps": 5_000, "publish_steps": 1})
    supervisor = supervisor_for(config, tmp_path / "run")
    floors = []
    supervisor.context.program.spawn_weight_store = lambda floor, incarnation: floors.append(floor)
    supervisor.spawner.weight_store(1)
    assert floors[0] >= supervisor.context.records.version + 2 * 5_000


# --- the end of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("was_ready", [True, False])
def test_an_evaluator_that_hangs_in_the_last_evaluation_is_replaced(tmp_path, was_ready):
    class Runtime(SideBySide):
        def spawned(self, name, handle):
            if name == part_name(EVALUATOR, 0):
                call = handle.call
                self.silent = "none" if was_ready else handle

                def hang(method, *rest):
                    evaluator = supervisor.fleet.evaluator
                    if was_ready and not (evaluator and evaluator.ready):
                        return call(method, 0.0)
                    self.silent = handle
                    return Never()

                handle.call = hang

    supervisor, view = crashing(
        tmp_path / "run",
        [],
        Runtime(),
        stop={"learner_steps": 60},
        supervision={"hung_after_s": 0.5, "start_timeout_s": 0.5},
    )
    summary = supervisor.run()
    (line,) = [
        line
        for line in view.lines
        if line.startswith("evaluator ") and line.endswith("; restarted")
    ]
    assert ("no heartbeat" if was_ready else "was not ready within") in line
    assert summary["score"] is not None


def test_a_weight_store_that_dies_before_the_only_evaluation_is_restarted_for_it(tmp_path):
    supervisor, view = crashing(tmp_path / "run", [], SideBySide(), stop={"learner_steps": 60})
    evaluate = supervisor.evaluation.begin

    def late() -> None:
        if supervisor.fleet.evaluator is None:
            supervisor.context.runtime.crash(supervisor.fleet.weight_store.handle)
        evaluate()

    supervisor.evaluation.begin = late
    begun = time.monotonic()
    assert supervisor.run()["score"] is not None
    assert any(line.startswith("weight-store died") for line in view.lines)
    assert time.monotonic() - begun < 30


def test_a_weight_store_that_always_dies_costs_the_last_score_and_not_the_end(tmp_path):
    supervisor, _ = crashing(
        tmp_path / "run",
        [],
        SideBySide(),
        timeouts={"save_s": 0.5},
        stop={"learner_steps": 60},
        checkpoint={"every_learner_steps": None, "every_s": None},  # only the last: in time
    )
    evaluate = supervisor.evaluation.begin

    def late() -> None:
        supervisor.context.runtime.crash(supervisor.fleet.weight_store.handle)
        evaluate()

    supervisor.evaluation.begin = late
    summary = supervisor.run()
    assert summary["learner_steps"] == 60
    assert summary["score"] is None


def test_a_learner_that_hangs_is_not_waited_for_where_all_is_saved(tmp_path):
    train(config_for(stop={"learner_steps": 60}), tmp_path / "run")
    more = {"stop": {"learner_steps": 1_000}}
    supervisor = supervisor_that_resumes(
        tmp_path / "run", Messages(), more, SideBySide(), state_s=0.3
    )
    supervisor.fleet.learner.handle = Silent()
    supervisor.request_stop("terminated")
    begun = time.monotonic()
    summary = supervisor.run()
    assert time.monotonic() - begun < 5
    assert re.fullmatch("[0-9a-f]{64}", summary["weights_sha256"])


def test_after_a_signal_all_waits_together_have_a_limit(tmp_path):
    supervisor, view = crashing(
        tmp_path / "run",
        [],
        SideBySide(),
        timeouts={"signal_drain_s": 0.3, "signal_s": 0.6, "failed_save_s": 30.0},
        stop={"learner_steps": 10**6},
        learner={"stall_timeout_s": None},
    )

    def update(report) -> None:
        busy, asked = supervisor.checkpoints.in_flight, supervisor.shutdown.requested
        if report["learner_steps"] >= 60 and not busy and not asked:
            supervisor.fleet.shards[1].handle.call = Silent().call  # a save never ends
            supervisor.request_stop("terminated")

    view.update = update
    begun = time.monotonic()
    with pytest.raises(RunFailedError, match="the last checkpoint was not written"):
        supervisor.run()
    assert time.monotonic() - begun < 10
    Never.test_is_over.set()
    assert supervisor.context.folder.checkpoints.names()

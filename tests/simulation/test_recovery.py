"""Parts that die or hang when it is least convenient: the storage away, the run nearly over.

In one process, as on Ray: an answer may be long in coming, and errors come with the answers.
"""

from __future__ import annotations

import re
import threading
import time

import pytest
from test_supervisor import (
    Crashing,
    HostedRuntime,
    Messages,
    Never,
    SideBySide,
    supervisor_for,
    supervisor_that_resumes,
    tiny,
)

from common.checkpoint import CheckpointStore, read_verified
from common.errors import CheckpointError, RunFailedError, StorageError
from common.handles import Failed
from common.parts import EVALUATOR, part_name
from common.storage import LocalStorage
from deploy.launch.train import train
from deploy.runtime.inline import InlineRuntime

NO_EVALUATION = {"every_learner_steps": 10**6}


@pytest.fixture(autouse=True)
def _nobody_waits_for_ever():
    Never.test_is_over.clear()
    yield
    Never.test_is_over.set()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.RETRY_S", 0.05)
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.2)


def config_for(**over):
    return tiny(
        **{
            "stop": {"learner_steps": 400},
            "replay": {"shards": 2},
            "checkpoint": {"every_learner_steps": 40, "every_s": None},
            "evaluation": NO_EVALUATION,
        }
        | over
    )


def crashing(path, titles, runtime, view=None, **over):
    """A supervisor, and a view that has those parts die."""
    view = view or Crashing(titles)
    view.supervisor = supervisor_for(config_for(**over), path, view, runtime)
    return view.supervisor, view


def sound_checkpoints(supervisor):
    """Names of all checkpoints, each of them verified to the last byte."""
    store = supervisor._folder.checkpoints
    for name in store.names():
        checkpoint = store.load(name)
        for file in checkpoint.files:
            read_verified(store.storage, file, checkpoint.files)
    return store.names()


# --- the storage is away when a part dies -------------------------------------------------------


class Outage(Crashing):
    """When the parts die the storage cannot be listed, for some time from the first try."""

    def __init__(self, titles, monkeypatch, seconds, what="error") -> None:
        super().__init__(titles)
        self.seconds, self.from_s, self.begun = seconds, None, False
        self.names: list[str] = []
        sizes = LocalStorage.sizes

        def flaky(storage):
            if not self.begun:
                return sizes(storage)
            self.from_s = self.from_s or time.monotonic()
            if time.monotonic() > self.from_s + self.seconds:
                return sizes(storage)
            if what == "empty":
                return {}  # as a disk that is not mounted
            raise StorageError("s3://bucket/run: connection reset")

        monkeypatch.setattr(LocalStorage, "sizes", flaky)

    def update(self, report) -> None:
        if self.titles and report["learner_steps"] >= self.after_steps:
            store = self.supervisor._folder.checkpoints
            while self.supervisor._checkpoint_writer.busy and not self.supervisor._take_checkpoint(
                5.0
            ):
                pass
            self.names, self.begun = store.names(), True
        super().update(report)


@pytest.mark.parametrize("runtime", [InlineRuntime, SideBySide])
@pytest.mark.parametrize("title", ["learner", "shard-1"])
@pytest.mark.parametrize("what", ["error", "empty"])
def test_a_part_that_dies_while_the_storage_is_away_comes_back_when_it_is_back(
    tmp_path, monkeypatch, title, runtime, what
):
    view = Outage([title], monkeypatch, 0.2, what)
    supervisor, _ = crashing(tmp_path / "run", None, runtime(), view)
    summary = supervisor.run()
    assert summary["learner_steps"] == 400
    assert summary["restarts"] == 1
    newest = int(view.names[-1].rpartition("-")[2])
    if title == "learner":
        assert view.looked["learner"] == newest > 0, "from its newest checkpoint, not from nothing"
    else:
        assert view.looked["shard-1"].size > 0
    said = [line for line in view.lines if line.startswith(f"{title} cannot be replaced yet: ")]
    assert len(said) == 1, "once, however often it is tried"
    assert sound_checkpoints(supervisor)


def test_a_storage_that_stays_away_ends_the_run_and_costs_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.UNREADABLE_S", 0.4)
    view = Outage(["learner"], monkeypatch, 600.0)
    supervisor, _ = crashing(tmp_path / "run", None, SideBySide(), view)
    with pytest.raises(RunFailedError, match=r"learner cannot be replaced: .*connection reset"):
        supervisor.run()
    view.seconds = 0.0
    assert sound_checkpoints(supervisor) == view.names


def test_a_shard_that_cannot_read_its_part_for_a_while_comes_back_with_it(tmp_path, monkeypatch):
    supervisor, view = crashing(tmp_path / "run", ["shard-1"], HostedRuntime())
    read, failures = LocalStorage.read, []

    def flaky(storage, name):
        if name.endswith("shard-1.rdqn") and not view.titles and len(failures) < 3:
            failures.append(name)
            raise OSError(5, "Input/output error")
        return read(storage, name)

    monkeypatch.setattr(LocalStorage, "read", flaky)
    view.notify = view.lines.append
    summary = supervisor.run()
    assert len(failures) == 3
    assert summary["learner_steps"] == 400
    assert supervisor._restore_source.damaged == set(), "not for good: the storage was to blame"
    assert supervisor._shards[1].origin
    assert not any("begins empty" in line for line in view.lines)
    assert sound_checkpoints(supervisor)


def test_a_learner_of_which_no_checkpoint_is_sound_does_not_begin_anew(tmp_path):
    class Damaging(Crashing):
        def update(self, report) -> None:
            if self.titles and report["learner_steps"] >= self.after_steps:
                self.supervisor._take_checkpoint(5.0)
                for path in (tmp_path / "run").glob("checkpoints/*-step-*/learner.safetensors"):
                    path.write_bytes(path.read_bytes()[:-1] + b"?")
            super().update(report)

    view = Damaging(["learner"])
    supervisor, _ = crashing(tmp_path / "run", None, InlineRuntime(), view)
    with pytest.raises(RunFailedError, match="learner cannot be replaced: no checkpoint of it is"):
        supervisor.run()
    assert supervisor._folder.checkpoints.names(), "somebody may still mend them"


def test_a_checkpoint_that_goes_while_it_is_read_is_not_damaged_its_successor_is_read(
    tmp_path, monkeypatch
):
    keep = {"every_learner_steps": 40, "every_s": None, "keep": 1}
    supervisor, view = crashing(tmp_path / "run", ["learner"], InlineRuntime(), checkpoint=keep)
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
    assert supervisor.run()["learner_steps"] == 400
    assert view.looked["learner"] > 0
    assert supervisor._restore_source.damaged == set()


def test_what_one_part_finds_damaged_says_nothing_of_another_checkpoint(tmp_path):
    supervisor = supervisor_for(config_for(), tmp_path / "run", Messages(), HostedRuntime())
    supervisor.run()
    *_, before, newest = supervisor._folder.checkpoints.names()
    shard, learner = supervisor._shards[1], supervisor._learner
    shard.origin = before  # when that was the newest
    assert supervisor._restore_source.newest(learner).name == newest
    # Now comes the news that the shard's file was damaged there.
    supervisor._restore_source.distrust(shard, CheckpointError(f"{before}/shard-1.rdqn: damaged"))
    assert supervisor._restore_source.newest(shard).name == newest
    shard.origin = newest
    supervisor._restore_source.distrust(shard, CheckpointError(f"{newest}/shard-1.rdqn: damaged"))
    assert supervisor._restore_source.newest(learner).name == newest, "its own part is sound"
    assert supervisor._restore_source.newest(supervisor._shards[0]).name == newest


# --- one shard of several -----------------------------------------------------------------------


class Starting(SideBySide):
    """One part takes long to come up."""

    def __init__(self, name) -> None:
        self.name = name

    def spawn(self, cls, *args, part, incarnation, public_name=None):
        handle = super().spawn(cls, *args, part=part, incarnation=incarnation)
        if part_name(part, incarnation) == self.name:
            self.silent = handle
        return handle


def test_the_learner_goes_on_with_the_other_shards_until_one_is_back(tmp_path):
    view = Crashing(["shard-1"])
    view.notify = view.lines.append
    supervisor, _ = crashing(
        tmp_path / "run",
        None,
        Starting("shard-1-1"),
        view,
        stop={"learner_steps": 600, "wall_s": 60.0},
        learner={"stall_timeout_s": 4.0},
    )
    assert supervisor.run()["stop_reason"] == "learner_steps"
    assert not supervisor._shards[1].up
    # Learner and actor, however often each of them reported the loss.
    assert len(supervisor._to_reconnect) == 2


def test_a_shard_that_is_busy_when_it_is_asked_what_is_left_is_heard_later(tmp_path):
    class Answer:
        def __init__(self, answer) -> None:
            self.answer, self.from_s = answer, time.monotonic() + 0.4

        def done(self) -> bool:
            return time.monotonic() > self.from_s

        def result(self):
            assert self.done(), "nobody may wait for it"
            return self.answer.result()

    supervisor, view = crashing(
        tmp_path / "run",
        ["shard-0", "shard-1"],
        SideBySide(),
        checkpoint={"every_learner_steps": None, "every_s": None},
    )
    view.notify = view.lines.append
    begun, asked = [], []
    reset = supervisor._limiter.reset
    supervisor._limiter.reset = lambda held: (begun.append(held), reset(held))
    spawn = supervisor._program.spawn_shard

    def busy(*args):
        handle = spawn(*args)
        call = handle.call

        def late(method, *rest):
            answer = call(method, *rest)
            if method != "summary" or threading.current_thread() is not threading.main_thread():
                return answer
            if not supervisor._refilled or len(asked) > 1:
                return answer
            asked.append(method)
            return Answer(answer)

        handle.call = late
        return handle

    supervisor._program.spawn_shard = busy
    assert supervisor.run()["learner_steps"] == 400
    assert asked
    assert begun
    assert not supervisor._refilled


# --- what counts as a failure -------------------------------------------------------------------


class Again(Crashing):
    """Has one part die over and over, each time when it has worked; then the run may end."""

    def __init__(self, title, times) -> None:
        super().__init__([title])
        self.title, self.times, self.next_steps = title, times, 60

    def update(self, report) -> None:
        one, steps = self.supervisor, report["learner_steps"]
        slot = self.slots()[self.title]
        pending = any(found == self.title for _, found in one._to_reconnect)
        if not slot.up or slot.suspect or pending:
            self.next_steps = steps + 60
        elif steps >= self.next_steps and self.times:
            self.times, self.next_steps = self.times - 1, float("inf")
            one._program.runtime.crash(slot.handle)
        elif steps >= self.next_steps:
            one.request_stop("terminated")

    def notify(self, text, level=20, detail="") -> None:
        self.lines.append(text)
        if "was replaced" in text:
            self.next_steps = self.supervisor._counters.learner_steps + 60


@pytest.mark.parametrize("title", ["shard-1", "variables", "learner"])
def test_a_part_that_works_in_each_of_its_short_lives_may_die_often(tmp_path, title):
    view = Again(title, 5)
    supervisor, _ = crashing(
        tmp_path / "run", None, SideBySide(), view, stop={"learner_steps": None, "wall_s": 60.0}
    )
    summary = supervisor.run()
    assert summary["stop_reason"] == "terminated", view.lines
    assert summary["restarts"] == 5


def failing(supervisor, at):
    """Have the learner fail with an error of its own whenever `at(learner steps)`."""
    spawn = supervisor._program.spawn_learner

    def bad(handle):
        call = handle.call

        def train_badly(method, *args):
            if method == "train" and at(supervisor._counters.learner_steps):
                return Failed(RuntimeError("CUDA error: uncorrectable ECC error"))
            return call(method, *args)

        handle.call = train_badly
        return handle

    supervisor._program.spawn_learner = lambda *args: bad(spawn(*args))
    bad(supervisor._learner.handle)


def test_a_learner_that_fails_by_an_error_of_its_own_is_replaced(tmp_path):
    supervisor, view = crashing(tmp_path / "run", [], HostedRuntime())
    at = [100, 150, 200, 250, 300, 350]
    failing(supervisor, lambda steps: bool(at) and steps >= at[0] and bool(at.pop(0)))
    summary = supervisor.run()
    assert summary["learner_steps"] == 400
    assert summary["restarts"] == 6, "each time it had got further"
    assert "learner was replaced: CUDA error: uncorrectable ECC error" in view.lines


def test_a_learner_that_fails_at_the_same_step_again_and_again_ends_the_run(tmp_path):
    supervisor, view = crashing(tmp_path / "run", [], HostedRuntime())
    failing(supervisor, lambda steps: steps >= 100)
    with pytest.raises(RunFailedError, match=r"learner failed 4 times in a row: CUDA error"):
        supervisor.run()
    # The learner may have been a little ahead of what was reported, and saved so: it got on.
    assert 3 <= sum("was replaced" in line for line in view.lines) <= 8
    assert sound_checkpoints(supervisor)


def test_versions_go_up_however_many_a_call_publishes(tmp_path):
    config = config_for(learner={"train_steps": 5_000, "publish_steps": 1})
    supervisor = supervisor_for(config, tmp_path / "run")
    floors = []
    supervisor._program.spawn_weight_store = lambda floor, incarnation: floors.append(floor)
    supervisor._new_weight_store(1)
    assert floors[0] >= supervisor._records.version + 2 * 5_000


# --- the end of a run ---------------------------------------------------------------------------


class Silent:
    """A handle whose part says nothing any more."""

    name = "silent"

    def call(self, method, *args):
        return Never()

    def share(self, value):
        raise AssertionError


@pytest.mark.parametrize("was_up", [True, False])
def test_an_evaluator_that_hangs_in_the_last_evaluation_is_replaced(tmp_path, was_up):
    class Runtime(SideBySide):
        def spawn(self, cls, *args, part, incarnation, public_name=None):
            handle = super().spawn(cls, *args, part=part, incarnation=incarnation)
            if (part, incarnation) == (EVALUATOR, 0):
                call = handle.call
                self.silent = "nobody" if was_up else handle

                def hang(method, *rest):
                    if was_up and not (supervisor._evaluator and supervisor._evaluator.up):
                        return call(method, 0.0)
                    self.silent = handle
                    return Never()

                handle.call = hang
            return handle

    supervisor, view = crashing(
        tmp_path / "run",
        [],
        Runtime(),
        stop={"learner_steps": 60},
        supervision={"hung_after_s": 0.5, "start_timeout_s": 0.5},
    )
    summary = supervisor.run()
    (line,) = [line for line in view.lines if "evaluator was replaced" in line]
    assert ("no sign of life" if was_up else "did not come up") in line
    assert summary["score"] is not None


def test_variables_that_die_before_the_only_evaluation_are_replaced_for_it(tmp_path):
    supervisor, view = crashing(tmp_path / "run", [], SideBySide(), stop={"learner_steps": 60})
    evaluate = supervisor._evaluate

    def late() -> None:
        if supervisor._evaluator is None:
            supervisor._program.runtime.crash(supervisor._weight_store.handle)
        evaluate()

    supervisor._evaluate = late
    begun = time.monotonic()
    assert supervisor.run()["score"] is not None
    assert any("variables was replaced" in line for line in view.lines)
    assert time.monotonic() - begun < 30


def test_variables_that_always_die_cost_the_last_score_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.SAVE_S", 1.0)
    supervisor, _ = crashing(tmp_path / "run", [], SideBySide(), stop={"learner_steps": 60})
    evaluate = supervisor._evaluate

    def late() -> None:
        supervisor._program.runtime.crash(supervisor._weight_store.handle)
        evaluate()

    supervisor._evaluate = late
    summary = supervisor.run()
    assert summary["learner_steps"] == 60
    assert summary["score"] is None


def test_a_learner_that_hangs_is_not_waited_for_where_all_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.STATE_S", 0.3)
    train(config_for(stop={"learner_steps": 60}), tmp_path / "run")
    more = {"stop": {"learner_steps": 1_000}}
    supervisor = supervisor_that_resumes(tmp_path / "run", Messages(), more, SideBySide())
    supervisor._learner.handle = Silent()
    supervisor.request_stop("terminated")
    begun = time.monotonic()
    summary = supervisor.run()
    assert time.monotonic() - begun < 5
    assert re.fullmatch("[0-9a-f]{64}", summary["weights_sha256"])


def test_after_a_signal_all_waits_together_have_a_limit(tmp_path, monkeypatch):
    for name, seconds in {"HURRY_S": 0.3, "SIGNAL_S": 1.0, "LAST_STATE_S": 30.0}.items():
        monkeypatch.setattr(f"deploy.supervisor.loop.{name}", seconds)
    supervisor, view = crashing(
        tmp_path / "run", [], SideBySide(), learner={"stall_timeout_s": None}
    )

    def update(report) -> None:
        busy, asked = supervisor._checkpoint_writer.busy, supervisor._stop_requested is not None
        if report["learner_steps"] >= 60 and not busy and not asked:
            supervisor._shards[1].handle.call = Silent().call  # a save never ends
            supervisor.request_stop("terminated")

    view.update = update
    begun = time.monotonic()
    with pytest.raises(RunFailedError, match="the last checkpoint was not written"):
        supervisor.run()
    assert time.monotonic() - begun < 10
    Never.test_is_over.set()
    assert supervisor._folder.checkpoints.names()

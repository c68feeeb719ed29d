"""Parts that hang: the run ends with a reason, and in bounded time."""

from __future__ import annotations

import re
import time

import pytest

from actors.client import ActorClient
from common import wire
from common.errors import RunFailedError
from common.handles import Failed
from deploy.launch.train import train
from deploy.supervisor.stall import NAMED_PARTS
from replay_server.rate_limiter import RateLimiter
from support.fakes import (
    Hanging,
    Messages,
    Never,
    SideBySide,
    saved_counters,
    supervisor_for,
    tiny,
)

NO_EVALUATION = {"every_learner_steps": 10_000, "episodes": 2, "envs": 2}


def stalling(path, view=None, timeouts=None, **over):
    learner = {"stall_timeout_s": 0.4} | over.pop("learner", {})
    config = tiny(learner=learner, evaluation=NO_EVALUATION, **over)
    return supervisor_for(config, path, view, SideBySide(), **(timeouts or {}))


class IdleLimiter(RateLimiter):
    """Nothing was inserted or sampled for a long time."""

    idle_s = 1e6


def checkpoints_of(supervisor):
    return supervisor.context.folder.checkpoints.names()


def test_a_run_without_progress_stops_and_names_the_waiting_and_the_unresponsive_parts(tmp_path):
    supervisor = stalling(tmp_path / "run")
    slot = supervisor.fleet.actors[0]
    slot.handle = Hanging(slot.handle, after=30)
    with pytest.raises(RunFailedError) as caught:
        supervisor.run()
    said = str(caught.value)
    assert re.fullmatch(
        r"no transition was inserted and no sample drawn for 0\.4 s: learner waits for actors: "
        r"\d\.\d\d samples per insert, 4 wanted; parts with unfinished "
        r"calls: actor-0 for \d s; if their work takes that long, raise "
        r"learner\.stall_timeout_s=0\.4; to continue from the last checkpoint: raydqn resume \S+",
        said,
    )
    saved = saved_counters(tmp_path / "run")
    assert saved["learner_steps"] == supervisor.context.counters.learner_steps > 0


def test_a_learner_that_hangs_is_named_and_not_waited_for(tmp_path):
    view = Messages()
    supervisor = stalling(tmp_path / "run", view, {"failed_save_s": 0.1})
    supervisor.fleet.learner.handle = Hanging(supervisor.fleet.learner.handle, after=5)
    with pytest.raises(RunFailedError, match=r"actors wait for learner.*: learner for \d s; if"):
        supervisor.run()
    said = "learner did not return its state within 0.1 s: not saved"
    assert any(said in line for line in view.lines)
    assert not checkpoints_of(supervisor)


def test_an_unresponsive_shard_is_named_beside_the_parts_that_wait_for_it(tmp_path):
    timeouts = {"failed_save_s": 0.1, "ping_s": 0.1}
    supervisor = stalling(tmp_path / "run", timeouts=timeouts, replay={"shards": 3})
    supervisor.fleet.learner.handle = Hanging(supervisor.fleet.learner.handle, after=5)
    supervisor.context.runtime.silent = supervisor.fleet.shards[1].handle
    with pytest.raises(
        RunFailedError, match=r"with unfinished calls: shard-1, learner for \d s; if"
    ):
        supervisor.run()


def test_a_learner_that_hangs_over_a_checkpoint_does_not_hold_up_the_loop(tmp_path):
    checkpoint = {"every_s": None, "every_learner_steps": 20}
    timeouts = {"failed_save_s": 0.1}
    supervisor = stalling(tmp_path / "run", timeouts=timeouts, checkpoint=checkpoint)
    hanging = Hanging(supervisor.fleet.learner.handle, after=1, methods={"state"})
    supervisor.fleet.learner.handle = hanging
    call = hanging.call
    # Whatever comes after a call that hangs is not answered either.
    hanging.call = lambda *a: Never() if hanging.left < 0 else call(*a)
    with pytest.raises(RunFailedError, match=r"with unfinished calls: learner for"):
        supervisor.run()
    assert len(checkpoints_of(supervisor)) == 1
    assert hanging.asked.count("state") == 2, "one at a time"


LAST = 140


def test_a_checkpoint_is_written_when_the_learners_state_comes(tmp_path):
    class Late:
        def __init__(self, answer) -> None:
            self.answer, self.at_steps = answer, supervisor.context.counters.learner_steps + 20

        def result(self):  # in a thread of the writer's
            while not self.done():
                time.sleep(0.001)
            went_on.append(supervisor.context.counters.learner_steps)
            return self.answer.result()

        def done(self) -> bool:
            return supervisor.context.counters.learner_steps >= min(self.at_steps, LAST)

    supervisor = stalling(
        tmp_path / "run",
        learner={"stall_timeout_s": None, "samples_per_insert": 16.0},
        stop={"learner_steps": LAST},
        checkpoint={"every_learner_steps": 20, "every_s": None, "keep": 100},
    )
    learner = supervisor.fleet.learner.handle
    call, asked, went_on = learner.call, [], []

    def late(method, *args):
        answer = call(method, *args)
        if method != "state" or supervisor.context.counters.learner_steps >= LAST:
            return answer
        asked.append(wire.decode(answer.result())[1]["learner_steps"])
        return Late(answer)

    learner.call = late
    supervisor.run()
    saved = [int(name.rpartition("-")[2]) for name in checkpoints_of(supervisor)]
    assert len(asked) >= 2
    assert set(saved) - {LAST} <= set(asked), "named after the step that the state is of"
    assert len(saved) >= len(asked)
    assert went_on[0] > asked[0], "the loop continues meanwhile"


def test_a_clean_stop_does_not_wait_for_ever_for_a_learner_that_hangs(tmp_path):
    supervisor = stalling(tmp_path / "run", timeouts={"failed_save_s": 0.1})

    class Interrupting(Hanging):
        def call(self, method, *args):
            if self.left <= 0:
                supervisor.request_stop("interrupted")
            return super().call(method, *args)

    supervisor.fleet.learner.handle = Interrupting(supervisor.fleet.learner.handle, after=3)
    with pytest.raises(RunFailedError, match="with unfinished calls: learner for"):
        supervisor.run()


def test_a_signal_does_not_wait_for_ever_either_where_no_stall_timeout_is_set(tmp_path):
    supervisor = stalling(
        tmp_path / "run",
        timeouts={"signal_drain_s": 0.2, "save_s": 0.2, "failed_save_s": 0.1},
        learner={"stall_timeout_s": None},
    )
    supervisor.fleet.learner.handle = Hanging(supervisor.fleet.learner.handle, after=3)

    class Interrupting(Messages):
        def update(self, report) -> None:
            if supervisor.fleet.learner.handle.left < 0:
                supervisor.request_stop("terminated")

    supervisor.context.view = Interrupting()
    with pytest.raises(RunFailedError, match=r"the last checkpoint was not written within 0\.2 s"):
        supervisor.run()


def test_the_time_until_all_parts_run_does_not_count(tmp_path):
    supervisor = stalling(tmp_path / "run")
    supervisor.context.runtime.silent = "all"
    for slot in supervisor.fleet.actors:
        slot.handle = Hanging(slot.handle)
    begun = time.monotonic()

    class Starting(Messages):
        def update(self, report) -> None:
            if time.monotonic() - begun > 0.8:  # twice as long as nothing may move
                supervisor.context.runtime.silent = "none"

    supervisor.context.view = Starting()
    with pytest.raises(RunFailedError, match=r"learner waits for \d s: 0 of 100 first transitions"):
        supervisor.run()
    assert time.monotonic() - begun > 0.8 + 0.3


def test_an_actor_that_never_comes_up_does_not_hide_a_stall(tmp_path):
    supervisor = stalling(tmp_path / "run", actors={"count": 2, "envs": 4, "collect_steps": 8})
    first, second = supervisor.fleet.actors
    supervisor.context.runtime.silent = second.handle
    first.handle, second.handle = Hanging(first.handle, after=30), Hanging(second.handle)
    with pytest.raises(RunFailedError, match=r"actor-1 for \d s, actor-0 for \d s; if"):
        supervisor.run()


def test_a_long_evaluation_in_one_process_is_no_stall(tmp_path, endless):
    summary = train(
        tiny(
            env=endless,
            learner={"stall_timeout_s": 0.2},  # less than a slice of an evaluation
            evaluation={"every_learner_steps": 10},
            stop={"wall_s": 1.2},
        ),
        tmp_path / "run",
    )
    assert summary["stop_reason"] == "wall_s"


def test_a_restarted_part_has_the_whole_time_again(tmp_path):
    supervisor = stalling(tmp_path / "run")
    slot = supervisor.fleet.actors[0]
    slot.handle = Hanging(slot.handle, after=30)
    hung = []

    class Replacing(Messages):
        def update(self, report) -> None:
            if slot.call is not None and time.monotonic() - slot.called_s > 0.3 and not hung:
                hung.append(time.monotonic())
                slot.call = Failed(OSError("the simulator is gone"))

    supervisor.context.view = Replacing()
    slot.spawn = lambda incarnation: Hanging(slot.handle)
    with pytest.raises(RunFailedError, match="with unfinished calls: actor-0"):
        supervisor.run()
    assert time.monotonic() - hung[0] > 0.4


def test_without_a_stall_timeout_nothing_is_watched_and_many_parts_are_counted(tmp_path):
    count = NAMED_PARTS + 3
    supervisor = stalling(
        tmp_path / "run",
        learner={"stall_timeout_s": None},
        actors={"count": count, "envs": 1},
        stop={"wall_s": 1.5},
    )
    for slot in supervisor.fleet.actors:
        slot.begin(ActorClient.collect, 1, 0)
    supervisor.tend(time.monotonic(), supervisor.fleet.env_workers)  # all of them are up
    supervisor.check_stall(time.monotonic() + 1e9)
    supervisor.context.program.config = tiny(learner={"stall_timeout_s": 5.0})
    supervisor.context.limiter = IdleLimiter(4.0, 100, 1e6, 1, 1)
    with pytest.raises(RunFailedError, match=r"actor-4 for 1,000 s, 3 more; if") as caught:
        supervisor.check_stall(time.monotonic() + 1_000)
    assert "actor-5" not in str(caught.value)

"""Parts that die, or are unresponsive, are restarted, and the run ends as planned."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import deque

import pytest

from common.errors import RunFailedError
from common.parts import LEARNER, WEIGHT_STORE, actor, shard
from deploy.runs.metrics_file import read_metrics
from deploy.runtime.inline import InlineRuntime
from deploy.supervisor.spawn import EXTRA_VERSIONS
from support.fakes import (
    Crashing,
    Hanging,
    HostedRuntime,
    Never,
    OneAtATime,
    SideBySide,
    supervisor_for,
    tiny,
)
from support.reliability import store_in

DIE_AFTER_STEPS = 50


def run_with_deaths(
    path, parts, runtime=None, every=20, evaluate_every=10**6, steps=100, after=DIE_AFTER_STEPS
):
    """A run to its end in which these parts died: (its supervisor, its view, its summary)."""
    config = tiny(
        stop={"learner_steps": steps},
        actors={"chunk_steps": 2},  # soon both shards hold something
        replay={"shards": 2},
        checkpoint={"every_learner_steps": every, "every_s": None, "keep": 100},
        evaluation={"every_learner_steps": evaluate_every, "episodes": 2, "envs": 2},
        supervision={"hung_after_s": 20.0},
        learner={"samples_per_insert": 16.0},
        report={"every_s": 0.001},  # in every tick: they die after the same steps on any machine
    )
    view = Crashing(parts, after)
    view.supervisor = supervisor_for(config, path, view, runtime)
    return view.supervisor, view, view.supervisor.run()


ALL = [WEIGHT_STORE, shard(0), shard(1), LEARNER, actor(0)]


@pytest.mark.parametrize(
    ("parts", "runtime"),
    [
        *[([part], SideBySide) for part in ALL],
        (ALL, SideBySide),
        ([actor(0)], InlineRuntime),  # the others: below
        (ALL, InlineRuntime),
    ],
    ids=lambda p: "+".join(map(str, p)) if isinstance(p, list) else p.__name__,
)
def test_every_part_that_dies_is_restarted_and_the_run_ends_as_planned(tmp_path, parts, runtime):
    evaluate_every = 25 if parts == ALL else 10**6
    supervisor, view, summary = run_with_deaths(
        tmp_path / "run", parts, runtime(), evaluate_every=evaluate_every
    )
    assert summary["stop_reason"] == "learner_steps"
    assert summary["learner_steps"] == 100
    assert summary["restarts"] == len(parts)
    for part in parts:
        (line,) = [line for line in view.lines if line.startswith(f"{part} ")]
        assert line == f"{part} died: it was ended; restarted"
    supervisor.fleet.check()
    # No part keeps the handle of one that is gone.
    report = supervisor.fleet.learner.handle.call("train", 1).result()
    assert report.unreachable == []
    assert [shard.shard for shard in report.replay] == [0, 1]
    report = supervisor.context.program.spawn_actor(0, 9_999)._target.collect(1, 0)
    assert report.unreachable == []
    saved = supervisor.context.folder.checkpoints.newest().state
    assert saved["counters"]["restarts"] == len(parts)


def test_a_learner_that_died_continues_from_the_newest_checkpoint(tmp_path):
    supervisor, view, _ = run_with_deaths(
        tmp_path / "run", [LEARNER], every=45, steps=200, after=100
    )
    names = supervisor.context.folder.checkpoints.names()
    steps = [int(name.rpartition("-")[2]) for name in names]
    assert view.looked[LEARNER] == max(step for step in steps if step <= 100)
    assert steps == sorted(set(steps)), "what was done again was not saved twice"
    assert steps[-1] == 200
    (restart,) = [event for event in view.events if event[1].startswith("learner died: ")]
    assert restart[0] == logging.WARNING
    assert "RemoteDiedError" in restart[2], "the full cause is for the log"
    written = [event for event in view.events if " written after " in event[1]]
    assert {level for level, *_ in written} == {logging.DEBUG}, "not shown, but logged"
    for _, text, _ in written:
        name, steps = re.match(r"checkpoint (\S+) written after (\S+) learner steps", text).groups()
        assert int(name.rpartition("-")[2]) == int(steps.replace(",", "")), "one number"


def test_a_learner_that_died_before_the_first_checkpoint_begins_at_step_0(tmp_path):
    supervisor, view, summary = run_with_deaths(
        tmp_path / "run", [LEARNER], every=None, evaluate_every=50
    )
    assert view.looked[LEARNER] == 0
    assert summary["learner_steps"] == 100
    assert supervisor.context.counters.samples > 100 * 32, (
        "the samples of the dead learner are counted"
    )
    assert supervisor.evaluation.next_steps > 100


def test_a_shard_that_died_is_restored_from_the_newest_checkpoint(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", [shard(0)], steps=150)
    back = view.looked[shard(0)]
    assert back.shard == 0
    assert back.size > 0
    now = supervisor.fleet.shards[0].handle.call("summary").result()
    assert now.inserted > back.inserted, "it is written to"
    assert now.sampled > back.sampled, "and drawn from"


def test_a_shard_that_died_before_the_first_checkpoint_comes_back_empty(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", [shard(1)], every=None, steps=150)
    assert view.looked[shard(1)].size == 0
    assert supervisor.fleet.shards[1].handle.call("summary").result().size > 0


def test_a_memory_that_is_lost_as_a_whole_is_filled_again_and_the_run_ends_as_planned(tmp_path):
    parts = [shard(0), shard(1)]
    supervisor, view, summary = run_with_deaths(tmp_path / "run", parts, every=None, steps=150)
    assert summary["learner_steps"] == 150
    assert [view.looked[part].size for part in parts] == [0, 0]
    assert all(slot.handle.call("summary").result().size > 0 for slot in supervisor.fleet.shards)


def test_weight_versions_go_up_after_the_weight_store_and_the_learner_died(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", [WEIGHT_STORE, LEARNER])
    assert supervisor.context.records.version > view.version + EXTRA_VERSIONS
    told = [r["weights_version"] for r in read_metrics(tmp_path / "run") if r["weights_version"]]
    assert told == sorted(told)
    assert supervisor.fleet.actors[0].handle.call("collect", 1, 0).result().version > view.version


@pytest.mark.parametrize("part", [LEARNER, shard(0), WEIGHT_STORE], ids=str)
def test_a_part_that_dies_whenever_it_is_made_ends_the_run(tmp_path, monkeypatch, part):
    view = Crashing([part], after_steps=20)
    config = tiny(report={"every_s": 0.01})
    supervisor = supervisor_for(config, tmp_path / "run", view, SideBySide(), failed_save_s=0.1)
    view.supervisor = supervisor

    def stillborn(*args):
        handle = OneAtATime(None, "stillborn")
        handle.end()
        return handle

    spawn = f"spawn_{part.role.replace('-', '_')}"
    monkeypatch.setattr(supervisor.context.program, spawn, stillborn)
    view.looks = False
    with pytest.raises(RunFailedError, match=rf"{part} failed 4 times in a row; .* stillborn died"):
        supervisor.run()
    assert sum("restarted" in line for line in view.lines) == 3


def test_a_shard_whose_part_of_all_checkpoints_is_damaged_begins_empty(tmp_path):
    class Damaging(Crashing):
        def update(self, report) -> None:
            run = tmp_path / "run"
            if self.parts and not store_in(run).names():
                return  # the only checkpoint is not whole yet
            if self.parts and report["learner_steps"] >= self.after_steps:
                (path,) = run.glob("checkpoints/*-step-*/shard-1.rdqn")
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 255
                path.write_bytes(data)
            super().update(report)

    config = tiny(
        stop={"learner_steps": 299},  # before another checkpoint, which would be whole
        actors={"chunk_steps": 2},  # soon both shards hold something
        replay={"shards": 2},
        learner={"samples_per_insert": 16.0},
        checkpoint={"every_learner_steps": 150, "every_s": None},
        evaluation={"every_learner_steps": 10**6, "episodes": 2, "envs": 2},
        report={"every_s": 0.001},
    )
    view = Damaging([shard(1)], DIE_AFTER_STEPS)
    view.looks = False
    view.supervisor = supervisor_for(config, tmp_path / "run", view, HostedRuntime())
    summary = view.supervisor.run()
    assert summary["learner_steps"] == 299
    lines = [line for line in view.lines if "the run continues without it" in line]
    assert lines
    assert all(re.search(r"shard-1\.rdqn: damaged", line) for line in lines)
    assert summary["restarts"] == 1 + len(lines), "one that died, and those that could not be made"


class EndsAfterRestart(Crashing):
    """As `Crashing`; ends the run some learner steps after the restart."""

    def __init__(self, parts) -> None:
        super().__init__(parts, after_steps=50)
        self.restarted_at = None

    def update(self, report) -> None:
        super().update(report)
        if self.restarted_at is not None and report["learner_steps"] >= self.restarted_at + 30:
            self.supervisor.request_stop("terminated")

    def notify(self, text, *more) -> None:
        super().notify(text, *more)
        if "restarted" in text:
            self.restarted_at = self.supervisor.context.counters.learner_steps


@pytest.mark.parametrize("part", [shard(0), LEARNER, actor(0)], ids=str)
def test_a_part_without_a_heartbeat_is_restarted(tmp_path, part):
    config = tiny(
        stop={"learner_steps": None, "wall_s": 30.0},
        supervision={"hung_after_s": 0.1},
        learner={"stall_timeout_s": 20.0},
        evaluation={"every_learner_steps": 10**6},
    )
    view = EndsAfterRestart([part])
    view.supervisor = supervisor = supervisor_for(
        config, tmp_path / "run", view, SideBySide(), heartbeat_every_s=0.05
    )

    def hang(handle):
        slot = view.slot(part)
        supervisor.context.runtime.silent = slot.handle = Hanging(slot.handle)
        if part == LEARNER:  # calls in flight do not return either
            training = supervisor.dispatch.training
            supervisor.dispatch.training = deque(
                dataclasses.replace(one, call=Never()) for one in training
            )
            slot.call = supervisor.dispatch.training[0].call if training else None

    supervisor.context.runtime.crash = hang
    summary = supervisor.run()
    assert summary["stop_reason"] == "terminated", view.lines
    assert summary["restarts"] == 1
    (line,) = [line for line in view.lines if "restarted" in line]
    assert re.fullmatch(rf"{part} sent no heartbeat for \d s; restarted", line)

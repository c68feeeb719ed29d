"""More and fewer actors during a run; the status of its parts."""

from __future__ import annotations

import io
import json
import math
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from actors.actor import Actor
from common.config import Config
from common.config_toml import build, to_toml, with_actors
from common.errors import UserError
from common.handles import InlineHandle, Ready
from common.weights import WeightStore
from deploy.cli.main import main
from deploy.control.control_file import Reply
from deploy.launch.train import train
from deploy.reporting.status import PartStatus, run_status, show
from deploy.runs.folder import CONTROL, RunFolder
from deploy.runs.metrics_file import read_metrics
from deploy.runs.run_status import read_status
from deploy.runtime.inline import InlineRuntime
from deploy.supervisor.timeouts import Timeouts
from support.fakes import Messages, supervisor_for, supervisor_in, tiny

INTERVAL_S = Timeouts().autoscale_every_s
DRAIN_S = Timeouts().drain_s


class Asks(Messages):
    """A view that requests other numbers of actors after some env steps."""

    def __init__(self, run, requests):
        super().__init__()
        self.run, self.requests = run, list(requests)

    def update(self, report):
        if self.requests and report["env_steps"] >= self.requests[0][0]:
            count = self.requests.pop(0)[1]
            (self.run / CONTROL).write_text(f"[actors]\ncount = {json.dumps(count)}\n")


def test_a_run_continues_with_more_actors_and_with_fewer_and_nothing_is_lost(
    tmp_path, always_looking
):
    run = tmp_path / "run"
    view = Asks(run, [(300, 4), (900, 1)])
    config = tiny(
        stop={"env_steps": 1_500, "score": None},
        learner={"samples_per_insert": 1.0},
        report={"every_s": 0.001},
    )
    summary = train(config, run, view=view)
    assert "applied: actors.count 1 → 4" in view.lines
    assert "applied: actors.count 4 → 1" in view.lines
    assert summary["restarts"] == 0
    assert RunFolder.open(run).config.actors.count == 1
    # Each step becomes exactly one transition, those of actors that left included: all but what
    # the last ones still hold, 3-step windows and a chunk in the making.
    missing = summary["env_steps"] - summary["transitions"]
    assert 0 <= missing <= 4 * (8 + 3)
    lines = read_metrics(run)
    assert max(line["actor_busy"] for line in lines if line["actor_busy"]) > 0
    told = [(line["actors"], line["actors_up"]) for line in lines]
    assert {(1, 1), (4, 4)} == set(told)


def test_the_ladder_is_dealt_again_and_a_seed_is_never_used_twice(tmp_path):
    ladder = {"kind": "ladder", "random_warmup": False}
    config = tiny(actors={"count": 3}, exploration=ladder)
    supervisor = supervisor_for(config, tmp_path / "run")
    fleet, program, pool = supervisor.fleet, supervisor.context.program, supervisor.pool

    def resize(count):
        program.config = with_actors(program.config, count)
        pool.resize()
        fleet.check()

    def epsilons():
        return [slot.client.collect(1, 0).result().epsilon for slot in fleet.actors]

    before = epsilons()
    resize(1)
    assert fleet.retired == {2: 0, 1: 0}
    alone = epsilons()
    assert len(alone) == 1
    assert alone[0] < before[0], "its copies have the whole ladder now"
    resize(3)
    np.testing.assert_allclose(epsilons(), before)
    assert [slot.incarnation for slot in fleet.actors] == [0, 1, 1]
    assert fleet.max_incarnation == 1
    resize(1)
    assert fleet.max_incarnation == 1, "of removed actors, too: a checkpoint counts on from there"


def test_a_pool_that_grows_much_grows_in_steps_between_which_a_signal_is_seen(tmp_path):
    supervisor = supervisor_for(tiny(), tmp_path / "run")
    fleet, program, pool = supervisor.fleet, supervisor.context.program, supervisor.pool
    made = []
    program.spawn_actor = lambda index, incarnation: made.append(index) or fleet.actors[0].handle
    program.config = with_actors(program.config, 120)
    pool.resize()
    assert len(fleet.actors) == 1 + 50, "the rest comes with the next ticks of the loop"
    pool.grow()
    pool.grow()
    assert len(fleet.actors) == 120
    pool.grow()
    assert made == list(range(1, 120))


def test_an_actor_has_its_place_among_as_many_as_there_are():
    config = tiny(actors={"count": 2}, exploration={"kind": "ladder", "random_warmup": False})
    shard = InlineHandle(object())  # never called here
    actor = Actor(config, 1, 0, [shard], InlineHandle(WeightStore()))
    two = actor._schedule.epsilons(0)
    actor.set_actor_count(1_000)
    assert actor._schedule.epsilons(0).min() > two.min()
    actor.set_actor_count(2)
    np.testing.assert_array_equal(actor._schedule.epsilons(0), two)


@pytest.mark.parametrize("count", ["auto", 3])
def test_as_many_as_there_is_room_for(count):
    config = Config.model_validate({"actors": {"count": count}})
    assert config.actors.count == (0 if count == "auto" else 3)
    assert f"count = {json.dumps(count)}" in to_toml(config)
    assert build(config.model_dump()) == config


@pytest.mark.parametrize("count", [0, -1, "all", 1.5, None])
def test_a_number_of_actors_that_is_none(count):
    with pytest.raises(UserError, match=r"actors\.count"):
        build({"actors": {"count": count}})


def test_auto_is_settled_when_the_run_begins_and_stays_in_its_folder(tmp_path):
    config = tiny(actors={"count": "auto"}, stop={"learner_steps": 20, "score": None})
    train(config, tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").config.actors.count == 0
    parts = read_status(RunFolder.open(tmp_path / "run"))["parts"]
    assert [part["part"] for part in parts if part["part"].startswith("actor-")] == ["actor-0"]


class Limited(InlineRuntime):
    """A cluster of at most five actors; the test sets its capacities, and the moves."""

    autoscaling = True

    def __init__(self):
        self.capacities = []
        self.moves = []

    def consolidate(self, env_workers):
        return Ready(self.moves.pop(0))

    def max_actors(self):
        return 5

    def capacity(self, env_workers, starting):
        self.asked = [handle.name for handle in env_workers], starting
        return Ready(self.capacities.pop(0))


def reply_to(supervisor, changes):
    replies = []
    supervisor.control.apply(changes, replies.append)
    return replies.pop()


def test_more_than_the_cluster_can_ever_hold_is_refused(tmp_path):
    config = tiny()
    folder = RunFolder.create(tmp_path / "run", config)
    supervisor = supervisor_in(folder, runtime=Limited())
    answer = reply_to(supervisor, {"actors": {"count": 6}})
    assert answer == Reply(
        False, "actors.count=6: the cluster can never hold more than 5; nothing was changed"
    )
    assert len(supervisor.fleet.actors) == 1
    assert folder.config == config
    assert reply_to(supervisor, {"actors": {"count": 5}}).applied
    assert len(supervisor.fleet.actors) == 5


def test_a_run_that_fills_its_cluster_grows_at_once_and_shrinks_when_it_has_seen_it_twice(tmp_path):
    runtime = Limited()
    supervisor = supervisor_for(tiny(), tmp_path / "run", runtime=runtime)
    assert reply_to(supervisor, {"actors": {"count": "auto"}}).applied
    assert len(supervisor.fleet.actors) == 1, "looked at from now on"
    now = time.monotonic() + 1e6

    def after(*rooms):
        nonlocal now
        counts = []
        for room in rooms:
            runtime.capacities.append(room)
            now += INTERVAL_S
            supervisor.autoscale(now)
            counts.append(len(supervisor.fleet.actors))
        return counts

    assert after(4) == [4]
    assert runtime.asked == (["actor-0-0"], 0), "made long ago"
    assert after(4, 2, 4, 3, 2, 5) == [4, 4, 4, 4, 3, 5]
    supervisor.autoscale(now + INTERVAL_S / 2)
    assert not runtime.capacities, "not before its time"


def test_after_a_shrink_actors_move_one_at_a_time_as_long_as_that_empties_a_node(tmp_path):
    runtime = Limited()
    config = tiny(actors={"count": 3})
    supervisor = supervisor_for(config, tmp_path / "run", runtime=runtime)
    fleet, now = supervisor.fleet, time.monotonic() + 1e6

    def look():
        nonlocal now
        for _ in range(2):  # once to ask, once to hear
            now += INTERVAL_S
            supervisor.autoscale(now)

    def get_ready():
        for slot in fleet.actors:
            slot.ready = True

    get_ready()
    look()  # without an actor to move: nothing was asked
    assert reply_to(supervisor, {"actors": {"count": 2}}).applied
    mover, stays = fleet.actors
    runtime.moves = [mover.handle, None]
    look()
    assert [slot.name for slot in fleet.actors] == ["actor-0-1", "actor-1-0"]
    assert fleet.actors[1] is stays
    assert list(fleet.idle) == [stays, fleet.actors[0]]
    assert (fleet.draining, fleet.flushing) == ([], []), "it stored its transitions, and exited"
    assert supervisor.context.counters.restarts == 0
    look()
    assert runtime.moves == [None], "not before the one that moved is ready"
    get_ready()
    look()
    assert runtime.moves == []
    look()  # it is over


@pytest.mark.parametrize("once", [True, False])
def test_a_second_actor_moves_only_where_the_count_does_not_follow_the_capacity(tmp_path, once):
    """With `auto`, another actor takes the capacity that one frees: they would move for ever."""
    runtime = Limited()
    folder = RunFolder.create(tmp_path / "run", tiny(actors={"count": 2}))
    supervisor = supervisor_in(folder, runtime=runtime)
    autoscaler, fleet, now = supervisor.autoscaler, supervisor.fleet, time.monotonic() + 1e6
    for slot in fleet.env_workers:
        slot.ready = True
    runtime.moves = [*(slot.handle for slot in fleet.actors), None]
    autoscaler.scattered = True
    movers = []
    for _ in range(6):
        now += INTERVAL_S
        movers.append(autoscaler.actor_to_move(now, once))
    moved = [slot for slot in movers if slot is not None]
    assert moved == fleet.actors[: 1 if once else 2]


def test_a_removed_actor_may_finish_a_call_that_began_long_ago(tmp_path):
    class Busy:
        def done(self):
            return False

    config = tiny(actors={"count": 2})
    supervisor = supervisor_for(config, tmp_path / "run", runtime=Limited())
    fleet, now = supervisor.fleet, time.monotonic()
    slot = fleet.actors[1]
    fleet.idle.remove(slot)
    slot.ready, slot.call, slot.called_s = True, Busy(), now - 100.0
    assert reply_to(supervisor, {"actors": {"count": 1}}).applied
    supervisor.pool.kill_late(now + DRAIN_S - 1)
    assert fleet.draining == [slot]
    supervisor.pool.kill_late(now + DRAIN_S + 1)
    assert fleet.draining == []


# --- what others see ----------------------------------------------------------------------------

LINE = {
    "wall_s": 12.5,
    "env_steps": 1_000,
    "learner_steps": 10,
    "env_steps_per_s": 80.0,
    "learner_steps_per_s": 1.5,
    "score": math.nan,
    "restarts": 1,
    "limiter": "balanced",
}


def shown(status, running=True):
    console = Console(file=io.StringIO(), width=120)
    show(status, running, console)
    return console.file.getvalue()


def test_a_status_shows_the_node_the_work_and_the_restarts_of_each_part():
    parts = [
        PartStatus("learner", 0, "gpu-1", 12, "ready", 1.5, "learner steps/s", 11.0, 0),
        PartStatus("actor-7", 3, None, None, "starting", None, "env steps/s", None, 3),
    ]
    text = shown(run_status("mine", {**LINE, "score": None}, parts))
    assert (
        "mine: running for 12 s: 1,000 env steps (80/s), 10 learner steps (1.5/s), score none"
        in text
    )
    learner, actor = (line.split() for line in text.splitlines()[-2:])
    assert learner[:4] == ["learner", "gpu-1", "12", "ready"]
    assert actor == ["actor-7", "–", "–", "starting", "–", "–", "3"]
    ended = run_status("mine", {**LINE, "score": 2.0}, parts)
    assert shown(ended, running=False).startswith(
        "mine: the driver ended without a summary after 12 s: 1,000 env"
    )
    text = shown({**ended, "stop_reason": "score"}, running=False)
    assert "mine: ended after 12 s: stop.score reached; 1,000 env" in text
    assert "actor-7" not in text, "its parts are gone"
    with pytest.raises(UserError, match="not a status"):
        shown({"run": "x"})


def test_the_command_prints_it_and_says_what_is_missing(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20, "score": None}), run)
    monkeypatch.setenv("HOME", str(tmp_path))  # where no shell was there to read the `~`
    assert main(["status", "~/run"]) == 0
    out = capsys.readouterr().out
    assert "ended after" in out
    assert ": stop.learner_steps reached; " in out
    assert " 20 learner steps" in out
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["run"] == "run"
    titles = {part["part"] for part in status["parts"]}
    assert titles >= {"weight-store", "shard-0", "learner", "actor-0"}
    assert main(["status"]) == 2
    assert main(["status", str(tmp_path)]) == 2
    (run / "status.json").write_text("[1]")
    assert main(["status", str(run)]) == 2
    assert main(["scale", str(run), "--actors", "0"]) == 2
    assert main(["scale", str(run), "--actors", "2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5, errors
    assert errors[-1].endswith(f"raydqn resume {run} --actors.count=2")
    assert "must be a whole number of at least 1, or auto" in errors[-2]


def test_requests_at_the_service_are_applied_however_seldom_the_run_reports(tmp_path):
    class Reporting(Asks):
        def update(self, report):
            reports.append(report)

    config = tiny(stop={"learner_steps": 60, "score": None}, report={"every_s": 1_000.0})
    folder = RunFolder.create(tmp_path / "run", config)
    supervisor = supervisor_in(folder, runtime=Limited(), control_every_s=0.0)
    supervisor.context.view, reports = Reporting(folder.path, []), []
    service = supervisor.fleet.control_service.handle
    number = service.call("request", {"actors": {"count": 2}}).result()
    taken = threading.Event()
    apply = supervisor.control.apply

    def note(changes, reply):
        assert not reports
        taken.set()
        apply(changes, reply)

    supervisor.control.apply = note
    supervisor.run()
    assert taken.is_set()
    assert service.call("reply", number).result() == Reply(True, "actors.count 1 → 2")

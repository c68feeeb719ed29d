"""More actors and fewer while a run goes on; what a run shows of its parts."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from rich.console import Console

from actors.actor import Actor
from actors.environments import environment_spec
from common.config import Config, build, merge, to_toml, with_actors
from common.errors import UserError
from common.handles import InlineHandle, Ready
from common.weights import WeightStore
from deploy.cli.main import main
from deploy.control.file import APPLIED
from deploy.control.service import COUNTERS, WISHES_KEPT, Board, ask_board, board_of, metric_name
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.program import build as build_program
from deploy.reporting.status import PartStatus, run_status, show
from deploy.runs.folder import CONTROL, RunFolder
from deploy.runs.metrics import read_metrics
from deploy.runtime.ray_runtime import InlineRuntime
from deploy.supervisor.actor_autoscaler import LOOK_EVERY_S
from deploy.supervisor.actor_pool import ActorPool
from deploy.supervisor.loop import FINISH_S, Supervisor
from support.program import TINY


def tiny(**over):
    return make_config("cartpole", overrides=merge(TINY, over))


class Asks:
    """A view that asks for other numbers of actors once so many env steps are done."""

    def __init__(self, run, wishes):
        self.run, self.wishes, self.lines = run, list(wishes), []

    def update(self, report):
        if self.wishes and report["env_steps"] >= self.wishes[0][0]:
            count = self.wishes.pop(0)[1]
            (self.run / CONTROL).write_text(f"[actors]\ncount = {json.dumps(count)}\n")

    def notify(self, text, level=20, detail=""):
        self.lines.append(text)

    def close(self):
        pass


@pytest.fixture
def always_looking(monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LOOK_EVERY_S", 0.0)


def test_a_run_goes_on_with_more_actors_and_with_fewer_and_nothing_is_lost(
    tmp_path, always_looking
):
    run = tmp_path / "run"
    view = Asks(run, [(500, 4), (2_000, 1)])
    config = tiny(stop={"env_steps": 4_000, "score": None}, report={"every_s": 0.001})
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


def test_the_ladder_is_dealt_anew_and_a_seed_is_never_used_twice(tmp_path):
    config = tiny(actors={"count": 3})
    spec = environment_spec(config.env)
    program = build_program(config, spec, InlineRuntime())
    pool = ActorPool(program)

    def epsilons():
        return [slot.handle.call("collect", 1, 0).result().epsilon for slot in pool.slots]

    before = epsilons()
    assert [slot.title for slot in pool.shrink(1)] == ["actor-2", "actor-1"]
    pool.set_actor_count()
    alone = epsilons()
    assert len(alone) == 1
    assert alone[0] < before[0], "its copies have the whole ladder now"
    program.config = with_actors(config, 3)
    pool.grow(3)
    pool.set_actor_count()
    np.testing.assert_allclose(epsilons(), before)
    assert [slot.incarnation for slot in pool.slots] == [0, 1, 1]
    assert pool.incarnation == 1
    pool.shrink(1)
    assert pool.incarnation == 1, "of those who left, too: a checkpoint counts on from there"


def test_an_actor_has_its_place_among_as_many_as_there_are():
    config = tiny(actors={"count": 2}, exploration={"kind": "ladder"})
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
    parts = RunFolder.open(tmp_path / "run").read_status()["parts"]
    assert [part["part"] for part in parts if part["part"].startswith("actor-")] == ["actor-0"]


class Limited(InlineRuntime):
    """A cluster that can never hold more than five actors; how many now, the test says."""

    autoscaling = True

    def __init__(self):
        self.rooms = []
        self.moves = []

    def consolidate(self, players):
        return Ready(self.moves.pop(0))

    def max_actors(self):
        return 5

    def capacity(self, players, starting):
        self.asked = [handle.name for handle in players], starting
        return Ready(self.rooms.pop(0))


def supervisor_in(folder, runtime):
    program = build_program(folder.config, environment_spec(folder.config.env), runtime)
    return Supervisor(program, folder, Asks(folder.path, []), time.monotonic())


def test_more_than_the_cluster_can_ever_hold_is_refused(tmp_path):
    config = tiny()
    folder = RunFolder.create(tmp_path / "run", config)
    supervisor = supervisor_in(folder, Limited())
    answer = supervisor._take_wish({"actors": {"count": 6}})
    assert answer == ("actors.count=6: the cluster can never hold more than 5; nothing was changed")
    assert len(supervisor._pool.slots) == 1
    assert folder.config == config
    assert supervisor._take_wish({"actors": {"count": 5}}).startswith(APPLIED)
    assert len(supervisor._pool.slots) == 5


def test_a_run_that_fills_its_cluster_grows_at_once_and_shrinks_when_it_has_seen_it_twice(tmp_path):
    runtime = Limited()
    supervisor = supervisor_in(RunFolder.create(tmp_path / "run", tiny()), runtime)
    assert supervisor._take_wish({"actors": {"count": "auto"}}).startswith(APPLIED)
    assert len(supervisor._pool.slots) == 1, "looked at from now on"
    now = time.monotonic() + 1e6

    def after(*rooms):
        nonlocal now
        counts = []
        for room in rooms:
            runtime.rooms.append(room)
            now += LOOK_EVERY_S
            supervisor._use_the_room(now)
            counts.append(len(supervisor._pool.slots))
        return counts

    assert after(4) == [4]
    assert runtime.asked == (["actor-0-0"], 0), "made long ago"
    assert after(4, 2, 4, 3, 2, 5) == [4, 4, 4, 4, 3, 5]
    supervisor._use_the_room(now + LOOK_EVERY_S / 2)
    assert not runtime.rooms, "not before its time"


def test_after_a_shrink_actors_move_one_at_a_time_as_long_as_that_empties_a_node(tmp_path):
    runtime = Limited()
    config = tiny(actors={"count": 3})
    supervisor = supervisor_in(RunFolder.create(tmp_path / "run", config), runtime)
    pool, now = supervisor._pool, time.monotonic() + 1e6

    def look():
        nonlocal now
        for _ in range(2):  # once to ask, once to hear
            now += LOOK_EVERY_S
            supervisor._use_the_room(now)

    def come_up():
        for slot in pool.slots:
            slot.up = True

    come_up()
    look()  # with nobody to move: nothing was asked
    assert supervisor._take_wish({"actors": {"count": 2}}).startswith(APPLIED)
    mover, stays = pool.slots
    runtime.moves = [mover.handle, None]
    look()
    assert [slot.name for slot in pool.slots] == ["actor-0-1", "actor-1-0"]
    assert pool.slots[1] is stays
    assert list(pool.idle) == [stays, pool.slots[0]]
    assert (pool.leaving, pool.closing) == ([], []), "it handed in what it had, and left"
    assert supervisor._counters.restarts == 0
    look()
    assert runtime.moves == [None], "not before the one that moved is up"
    come_up()
    look()
    assert runtime.moves == []
    look()  # it is over


@pytest.mark.parametrize("once", [True, False])
def test_a_second_actor_is_to_move_only_where_room_is_not_looked_for_all_the_time(tmp_path, once):
    """With `auto`, room that an actor leaves is room for another: they would move for ever."""
    runtime = Limited()
    folder = RunFolder.create(tmp_path / "run", tiny(actors={"count": 2}))
    supervisor = supervisor_in(folder, runtime)
    room, pool, now = supervisor._room, supervisor._pool, time.monotonic() + 1e6
    for slot in supervisor._players:
        slot.up = True
    runtime.moves = [*(slot.handle for slot in pool.slots), None]
    room.scattered = True
    movers = []
    for _ in range(6):
        now += LOOK_EVERY_S
        movers.append(room.mover(now, pool, supervisor._players, once))
    moved = [slot for slot in movers if slot is not None]
    assert moved == pool.slots[: 1 if once else 2]


def test_whoever_is_to_leave_may_end_the_work_it_began_long_ago(tmp_path):
    class Busy:
        def done(self):
            return False

    config = tiny(actors={"count": 2})
    supervisor = supervisor_in(RunFolder.create(tmp_path / "run", config), Limited())
    pool, now = supervisor._pool, time.monotonic()
    slot = pool.slots[1]
    pool.idle.remove(slot)
    slot.up, slot.call, slot.called_s = True, Busy(), now - 100.0
    assert supervisor._take_wish({"actors": {"count": 1}}).startswith(APPLIED)
    supervisor._see_who_is_late(now + FINISH_S - 1)
    assert pool.leaving == [slot]
    supervisor._see_who_is_late(now + FINISH_S + 1)
    assert pool.leaving == []


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


def test_a_status_says_which_part_lives_where_what_it_does_and_how_often_it_was_replaced():
    parts = [
        PartStatus("learner", 0, "gpu-1", 12, "up", 1.5, "learner steps/s", 11.0, 0),
        PartStatus("actor-7", 3, None, None, "waiting", None, "env steps/s", None, 3),
    ]
    text = shown(run_status("mine", {**LINE, "score": None}, parts))
    assert "mine: for 12 s: 1,000 env steps (80/s), 10 learner steps (1.5/s), score none" in text
    learner, actor = (line.split() for line in text.splitlines()[2:])
    assert learner[:4] == ["learner", "gpu-1", "12", "up"]
    assert actor == ["actor-7", "–", "–", "waiting", "–", "–", "3"]
    ended = run_status("mine", {**LINE, "score": 2.0}, parts)
    assert shown(ended, running=False).startswith("mine: has ended after 12 s, killed: 1,000 env")
    text = shown({**ended, "stop_reason": "score"}, running=False)
    assert "after 12 s, by score: 1,000 env" in text
    assert "learner " not in text.replace("learner steps", ""), "its parts are gone"
    with pytest.raises(UserError, match="not a status"):
        shown({"run": "x"})


def test_the_command_prints_it_and_says_what_is_missing(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20, "score": None}), run)
    monkeypatch.setenv("HOME", str(tmp_path))  # where no shell was there to read the `~`
    assert main(["status", "~/run"]) == 0
    out = capsys.readouterr().out
    assert "has ended after" in out
    assert ", by learner_steps: " in out
    assert " 20 learner steps" in out
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["run"] == "run"
    titles = {part["part"] for part in status["parts"]}
    assert titles >= {"variables", "shard-0", "learner", "actor-0"}
    assert main(["status"]) == 2
    assert main(["status", str(tmp_path)]) == 2
    (run / "status.json").write_text("[1]")
    assert main(["status", str(run)]) == 2
    assert main(["scale", str(run), "--actors", "0"]) == 2
    assert main(["scale", str(run), "--actors", "2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5, errors
    assert "no run is going on there" in errors[-1]


def test_a_board_takes_no_more_wishes_than_it_keeps():
    board = InlineHandle(Board("mine"))
    for number in range(WISHES_KEPT):
        assert board.call("ask", {}).result() == number + 1
    with pytest.raises(UserError, match="mine: 100 wishes wait there still; try again later"):
        ask_board(board, "mine", {}, 1.0)
    assert len(board.call("hear", {}).result()) == WISHES_KEPT
    assert board.call("ask", {}).result() == WISHES_KEPT + 1, "the run has looked"


def test_a_board_passes_wishes_on_once_and_answers_back(monkeypatch):
    board = Board("mine")
    monkeypatch.setattr(board, "_measure", lambda key, value: None)
    handle = InlineHandle(board)
    assert board.status() is None
    first = board.ask({"actors": {"count": 2}})
    second = board.ask({"actors": {"count": 3}})
    wishes = [(first, {"actors": {"count": 2}}), (second, {"actors": {"count": 3}})]
    assert board.hear({}) == wishes
    assert board.hear({first: "applied: it"}) == []
    assert board.answer(first) == "applied: it"
    assert board.answer(second) is None
    board.post({}, {"run": "mine"})
    assert board.status() == {"run": "mine"}
    assert ask_board(handle, "mine", {}, wait_s=0.0) is None
    for number in range(1_000):
        board.hear({number: "x"})
    assert len(board._answers) <= 100, "bounded"
    with pytest.raises(UserError, match="yours: no run of that name goes on at auto; there are: m"):
        board_of({"mine": handle}, "yours", "auto")


def test_wishes_at_a_board_are_taken_however_seldom_the_run_reports(tmp_path, always_looking):
    class Reporting(Asks):
        def update(self, report):
            reports.append(report)

    config = tiny(stop={"learner_steps": 200, "score": None}, report={"every_s": 1_000.0})
    folder = RunFolder.create(tmp_path / "run", config)
    supervisor = supervisor_in(folder, Limited())
    supervisor._view, reports = Reporting(folder.path, []), []
    board = supervisor._board.handle
    number = board.call("ask", {"actors": {"count": 2}}).result()
    taken = threading.Event()
    take = supervisor._take_wish

    def note(wish):
        assert not reports
        taken.set()
        return take(wish)

    supervisor._take_wish = note
    supervisor.run()
    assert taken.is_set()
    assert board.call("answer", number).result() == "applied: actors.count 1 → 2"


class Counted:
    """Stands for a counter of Ray's."""

    def __init__(self):
        self.total = 0.0

    def inc(self, amount, tags):
        self.total += amount


def test_a_board_that_takes_the_place_of_another_counts_on_from_there():
    first, second = Board("mine"), Board("mine", anew=True)
    for board, total in ((first, 1_500.0), (second, 500.0)):
        counter = board._metrics["env_steps"] = Counted()
        for steps in (1_000, 1_200, 1_500):
            board.post({"env_steps": steps}, {})
        assert counter.total == total


class Silent:
    """Of a board whose machine hangs."""

    def call(self, method, *arguments):
        return self

    def done(self):
        return False


def test_a_board_that_does_not_answer_holds_nobody_up_for_ever(monkeypatch, capsys):
    monkeypatch.setattr("deploy.control.service.ANSWER_S", 0.2)
    talking, gone = Board("a"), InlineHandle(None)
    talking._status = run_status("a", {**LINE, "score": None}, [])
    boards = {"a": InlineHandle(talking), "b": Silent(), "c": gone, "d": InlineHandle(Board("d"))}
    monkeypatch.setattr("deploy.control.service.boards_at", lambda address: nullcontext(boards))
    assert main(["status", "--address", "auto", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["run"] for line in out.splitlines()] == ["a"]
    assert err.startswith("raydqn: b: its board does not answer within 0.2 s")
    assert main(["status", "b", "--address", "auto"]) == 2
    assert main(["scale", "b", "--actors", "2", "--address", "auto"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "b: its board does not answer within 0.2 s" in first


def test_numbers_that_only_grow_are_counters():
    assert metric_name("env_steps") == "raydqn_env_steps_total"
    assert metric_name("episodes_total") == "raydqn_episodes_total"
    assert metric_name("loss") == "raydqn_loss"
    assert "learner_steps" in COUNTERS

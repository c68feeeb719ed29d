"""More actors and fewer while a run goes on; what a run shows of its parts."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from program_helpers import TINY
from rich.console import Console

from actors.actor import Actor
from actors.environments import environment_spec
from common.config import Config, build, merge, to_toml, with_actors
from common.handles import InlineHandle
from common.types import UserError
from common.variables import Variables
from deploy.board import COUNTERS, Board, ask_board, board_of, metric_name
from deploy.cli import main
from deploy.control import APPLIED
from deploy.crew import Crew
from deploy.metrics import CONTROL, RunFolder, read_metrics
from deploy.program import build as build_program
from deploy.remote import InlineRuntime
from deploy.run import make_config, train
from deploy.status import PartStatus, run_status, show
from deploy.supervisor import Supervisor


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

    def message(self, text):
        self.lines.append(text)

    def close(self):
        pass


@pytest.fixture
def always_looking(monkeypatch):
    monkeypatch.setattr("deploy.supervisor.LOOK_EVERY_S", 0.0)


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
    assert max(line["actor_busy"] for line in read_metrics(run) if line["actor_busy"]) > 0


def test_the_ladder_is_dealt_anew_and_a_seed_is_never_used_twice(tmp_path):
    config = tiny(actors={"count": 3})
    spec = environment_spec(config.env)
    program = build_program(config, spec, InlineRuntime())
    crew = Crew(program)

    def epsilons():
        return [seat.handle.call("collect", 1, 0).result().epsilon for seat in crew.seats]

    before = epsilons()
    assert [seat.title for seat in crew.shrink(1)] == ["actor-2", "actor-1"]
    crew.redeal()
    alone = epsilons()
    assert len(alone) == 1
    assert alone[0] < before[0], "its copies have the whole ladder now"
    program.config = with_actors(config, 3)
    crew.grow(3)
    crew.redeal()
    np.testing.assert_allclose(epsilons(), before)
    assert [seat.incarnation for seat in crew.seats] == [0, 1, 1]
    assert crew.incarnation == 1
    crew.shrink(1)
    assert crew.incarnation == 1, "of those who left, too: a checkpoint counts on from there"


def test_an_actor_has_its_place_among_as_many_as_there_are():
    config = tiny(actors={"count": 2}, exploration={"kind": "ladder"})
    shard = InlineHandle(object())  # never called here
    actor = Actor(config, 1, 0, [shard], InlineHandle(Variables()))
    two = actor._schedule.epsilons(0)
    actor.redeal(1_000)
    assert actor._schedule.epsilons(0).min() > two.min()
    actor.redeal(2)
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
    """A machine that can never hold more than five actors."""

    def limit(self):
        return 5


def test_more_than_the_cluster_can_ever_hold_is_refused(tmp_path):
    config = tiny()
    folder = RunFolder.create(tmp_path / "run", config)
    program = build_program(config, environment_spec(config.env), Limited())
    view = Asks(tmp_path / "run", [])
    supervisor = Supervisor(program, folder, view, 0.0)
    answer = supervisor._take_wish({"actors": {"count": 6}})
    assert answer == ("actors.count=6: the cluster can never hold more than 5; nothing was changed")
    assert len(supervisor._crew.seats) == 1
    assert folder.config == config
    assert supervisor._take_wish({"actors": {"count": 5}}).startswith(APPLIED)
    assert len(supervisor._crew.seats) == 5


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
    assert "has ended" in shown(run_status("mine", {**LINE, "score": 2.0}, parts), running=False)
    with pytest.raises(UserError, match="not a status"):
        shown({"run": "x"})


def test_the_command_prints_it_and_says_what_is_missing(tmp_path, capsys):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20, "score": None}), run)
    assert main(["status", str(run)]) == 0
    out = capsys.readouterr().out
    assert "has ended" in out
    assert {"variables", "shard-0", "learner", "actor-0"} <= {
        line.split()[0] for line in out.splitlines()[2:]
    }
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "run"
    assert main(["status"]) == 2
    assert main(["status", str(tmp_path)]) == 2
    (run / "status.json").write_text("[1]")
    assert main(["status", str(run)]) == 2
    assert main(["scale", str(run), "--actors", "0"]) == 2
    assert main(["scale", str(run), "--actors", "2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5, errors
    assert "no run is going on there" in errors[-1]


def test_a_board_passes_wishes_on_once_and_answers_back(monkeypatch):
    board = Board("mine")
    monkeypatch.setattr(board, "_measure", lambda key, value: None)
    handle = InlineHandle(board)
    assert board.status() is None
    first = board.ask({"actors": {"count": 2}})
    second = board.ask({"actors": {"count": 3}})
    assert board.post({}, {"run": "mine"}, {}) == [
        (first, {"actors": {"count": 2}}),
        (second, {"actors": {"count": 3}}),
    ]
    assert board.post({}, {"run": "mine"}, {first: "applied: it"}) == []
    assert board.answer(first) == "applied: it"
    assert board.answer(second) is None
    assert board.status() == {"run": "mine"}
    assert ask_board(handle, {}, wait_s=0.0) is None
    for number in range(1_000):
        board.post({}, {}, {number: "x"})
    assert len(board._answers) <= 100, "bounded"
    with pytest.raises(UserError, match="yours: no run of that name goes on at auto; there are: m"):
        board_of({"mine": handle}, "yours", "auto")


def test_numbers_that_only_grow_are_counters():
    assert metric_name("env_steps") == "raydqn_env_steps_total"
    assert metric_name("episodes_total") == "raydqn_episodes_total"
    assert metric_name("loss") == "raydqn_loss"
    assert "learner_steps" in COUNTERS

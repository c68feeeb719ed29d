"""Parts that die or hang on Ray are replaced, and the run continues."""

from __future__ import annotations

import itertools
import json
import re
import signal
import time
from pathlib import Path

from support.program import (
    CALM,
    TINY_OPTIONS,
    assert_all_gone,
    command_of,
    descendants,
    learner_steps_in,
    remotes_named,
    reports_in,
    running,
    summary_of,
    wait_for,
)
from support.reliability import NO_GOAL, ON_RAY, RECOVERY_S, restarts_in, store_in

PARTS = {"actor-0", "actor-1", "shard-0", "shard-1", "learner", "weight-store"}
ONCE_EACH = dict.fromkeys(PARTS, 1) | {"learner": 2}
"""Restarts in the test below, and so incarnations."""


def epsilons_in(run: Path, restarts: int) -> set[float]:
    """Of all episodes that ended while so many parts had been replaced."""
    reports = [report for report in reports_in(run) if report["restarts"] == restarts]
    return {epsilon for report in reports for *_, epsilon in report["episodes"]}


def restarts_of(part: str, out: str) -> list[str]:
    """The causes of a part's restarts, as the output tells them."""
    return re.findall(rf"^{part} (.*); restarted$", out, re.M)


def rows_if_each_restarted_once(run: Path) -> list[dict]:
    """The rows of the status, once it shows all restarts."""
    rows = json.loads((run / "status.json").read_text())["parts"]
    return rows if {row["part"]: row["restarts"] for row in rows} == ONCE_EACH else []


def hit(process, run: Path, name: str, number: int) -> float:
    """Send a part a signal; seconds until it is replaced and learning goes on."""
    before = restarts_in(run)
    (remote,) = remotes_named(process, name)
    begin = time.monotonic()
    remote.send_signal(number)
    wait_for(lambda: restarts_in(run) > before, RECOVERY_S)
    steps = learner_steps_in(run)
    wait_for(lambda: learner_steps_in(run) >= steps + 20, RECOVERY_S)
    return time.monotonic() - begin


def test_every_part_that_dies_or_hangs_restarts_and_no_process_is_left_behind(tmp_path):
    run = tmp_path / "run"
    options = ("--actors.count", "2", "--supervision.hung-after-s", "3", "--run-dir", str(run))
    with running("train", *ON_RAY, *CALM, *options) as process:
        wait_for(lambda: len(store_in(run).names()) >= 2 and learner_steps_in(run) > 100)
        wait_for(lambda: len(epsilons_in(run, restarts=0)) == 8)
        took = {}
        for name, number in (
            ("actor-0", signal.SIGKILL),
            ("shard-1", signal.SIGKILL),
            ("learner", signal.SIGKILL),
            ("weight-store", signal.SIGKILL),
            ("shard-0", signal.SIGSTOP),
            ("learner", signal.SIGSTOP),
            ("actor-1", signal.SIGSTOP),
        ):
            saved = store_in(run).newest().state["learner"]["learner_steps"]
            version = reports_in(run)[-1]["oldest_acting_version"]
            took[name, number.name] = round(hit(process, run, name, number), 1)
            assert learner_steps_in(run) >= saved, name  # from its newest checkpoint, or later
            acting = wait_for(lambda: reports_in(run)[-1]["oldest_acting_version"])
            assert acting >= version, name
            if name == "actor-0":  # two actors of four copies: the same ladder of eight
                wait_for(lambda: epsilons_in(run, restarts=1) == epsilons_in(run, restarts=0))
            if name == "weight-store":  # published again, and fetched, before the next part dies
                wait_for(lambda v=version: reports_in(run)[-1]["oldest_acting_version"] > v)
            assert reports_in(run)[-1]["replay_size"] > 0
        # Each was replaced once, and with the next incarnation; the others went on as they were.
        assert restarts_in(run) == 7
        processes = descendants(process)
        names = [" ".join(command_of(p)).split(".")[0].strip() for p in processes]
        for name in ("shard-0-1", "shard-1-1", "learner-2", "weight-store-1", "actor-0-1"):
            assert any(title.startswith(f"ray::{name}") for title in names), (name, names)
        rows = wait_for(lambda: rows_if_each_restarted_once(run))
        assert next(row["rate"] for row in rows if row["part"] == "actor-0") > 0
        assert {row["part"]: row["incarnation"] for row in rows} == ONCE_EACH
        # Then parts die at random.
        with running("chaos", str(run), "--every", "3s", "--kinds", "actor,shard,learner") as chaos:
            wait_for(lambda: restarts_in(run) >= 9)
            steps = learner_steps_in(run)
            wait_for(lambda: learner_steps_in(run) >= steps + 20 or restarts_in(run) > 9)
            left = descendants(process)
            process.send_signal(signal.SIGTERM)
            # docs/reliability.md promises 15 s, of a machine without other tests.
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            said, _ = chaos.communicate(timeout=120)
        assert said.count("requested: kill") >= 2, said
        assert "the run has ended" in said
        assert chaos.returncode == 0
        assert_all_gone([*processes, *left])
    saved = store_in(run).newest()
    assert saved.state["learner"]["learner_steps"] == summary_of(out)["learner_steps"]
    print(took)
    assert summary_of(out)["restarts"] >= 9
    assert all(len(restarts_of(name, out)) >= count for name, count in ONCE_EACH.items())
    reports = reports_in(run)
    env_steps = [report["env_steps"] for report in reports]
    assert env_steps == sorted(env_steps)
    steps = [report["learner_steps"] for report in reports]
    back = [later for earlier, later in itertools.pairwise(steps) if later < earlier]
    learners = len(restarts_of("learner", out))
    assert len(back) <= learners, "it fell back where the learner died, and nowhere else"
    assert 0 not in back, "to a checkpoint, not to the beginning"
    versions = [r["weights_version"] for r in reports if r["weights_version"] is not None]
    assert versions == sorted(versions), "actors never see an older one"


FRAGILE = """
import os, pathlib, time
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import register

HERE = pathlib.Path(__file__).parent

def first_time(what):
    known = (HERE / what).exists()
    (HERE / what).touch()
    return not known

class Fragile(CartPoleEnv):
    "Its 30th step takes long, its 200th ends the process, then its 200th does not end."
    steps = 0
    def step(self, action):
        self.steps += 1
        time.sleep(0.002)
        if self.steps == 30:
            time.sleep(5)
        if self.steps == 200 and first_time("died"):
            os._exit(1)
        if self.steps == 200 and first_time("hung"):
            time.sleep(600)
        if (HERE / "hopeless").exists():
            raise OSError("the simulator is gone")
        return super().step(action)

register("Fragile-v0", entry_point=Fragile, max_episode_steps=50)
"""


def test_an_environment_may_be_slow_and_is_replaced_when_it_dies_or_hangs_until_it_is_hopeless(
    tmp_path,
):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    run = tmp_path / "run"
    arguments = (
        *("train", "cartpole", *TINY_OPTIONS, *NO_GOAL, "--env.id", "fragile:Fragile-v0"),
        *("--actors.envs", "1", "--evaluation.every-learner-steps", "1000000"),
        *("--supervision.hung-after-s", "2", "--supervision.call-timeout-s", "8"),
        *("--run-dir", str(run)),
    )
    with running(*arguments, cwd=tmp_path) as process:
        # Slow: its process sends heartbeats.
        wait_for(lambda: reports_in(run) and reports_in(run)[-1]["env_steps"] > 60)
        assert restarts_in(run) == 0
        wait_for(lambda: restarts_in(run) == 2)
        before = learner_steps_in(run)
        wait_for(lambda: learner_steps_in(run) > before + 50)
        (tmp_path / "hopeless").touch()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    died, hung, *hopeless = restarts_of("actor-0", out)
    assert "did not finish its call within 8 s" in hung
    assert "did not finish" not in died
    assert len(hopeless) == 3, out
    assert "actor-0 failed 4 times in a row" in err
    assert "the simulator is gone" in err
    assert len(err.strip().splitlines()) == 1, err

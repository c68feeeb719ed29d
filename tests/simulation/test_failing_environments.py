"""Environments that raise errors, cannot be made, or do not close."""

from __future__ import annotations

import pytest

from common.errors import RunFailedError, UserError
from deploy.runtime.inline import InlineRuntime
from support.fakes import HostedRuntime, Messages, saved_counters, supervisor_for, tiny

FADING_ID = {"id": "fading_envs:Fading-v0"}


def test_an_error_of_the_environment_inline_is_a_failure_and_the_learner_is_saved(tmp_path, fading):
    supervisor = supervisor_for(tiny(env=FADING_ID), tmp_path / "run")
    fading.fuel, fading.at = 300, ("step",)
    with pytest.raises(RunFailedError, match=r"step\(\) raised ZeroDivisionError.*raydqn resume"):
        supervisor.run()
    assert saved_counters(tmp_path / "run")["learner_steps"] > 0


def test_a_part_that_cannot_be_made_again_ends_the_run_and_the_learner_is_saved(tmp_path, fading):
    view = Messages()
    config = tiny(env=FADING_ID, evaluation={"every_learner_steps": 10**6})
    supervisor = supervisor_for(config, tmp_path / "run", view, HostedRuntime())
    fading.fuel, fading.at = 300, ("step", "init")
    with pytest.raises(RunFailedError, match=r"actor-0 failed 4 times.*cannot be made.*resume"):
        supervisor.run()
    counters = saved_counters(tmp_path / "run")
    assert counters["learner_steps"] > 0
    assert counters["restarts"] == 3
    assert len(view.lines) == 3


def test_a_part_that_can_be_made_again_at_a_later_try_continues(tmp_path, fading):
    class Refuelling(Messages):
        def notify(self, text, *more) -> None:
            super().notify(text, *more)
            fading.fuel = 10**9 if "cannot be made" in text else fading.fuel

    config = tiny(
        env=FADING_ID,
        evaluation={"every_learner_steps": 10**6, "episodes": 2, "envs": 2},
        stop={"learner_steps": 60},
    )
    view = Refuelling()
    supervisor = supervisor_for(config, tmp_path / "run", view, HostedRuntime())
    fading.fuel, fading.at = 300, ("step", "init")
    assert supervisor.run()["restarts"] == 3
    assert ["cannot be made" in line for line in view.lines] == [False, True, True]


@pytest.mark.parametrize("runtime", [InlineRuntime(), HostedRuntime()])
def test_a_first_evaluator_that_cannot_be_made_ends_the_run_and_the_learner_is_saved(
    tmp_path, fading, runtime
):
    config = tiny(env=FADING_ID, evaluation={"every_learner_steps": 40})
    supervisor = supervisor_for(config, tmp_path / "run", Messages(), runtime)
    fading.copies = 0
    with pytest.raises(RunFailedError, match=r"cannot be made \(ConnectionError: no more"):
        supervisor.run()
    assert saved_counters(tmp_path / "run")["learner_steps"] >= 40


def test_a_users_mistake_that_only_a_part_finds_at_the_start_stays_one(tmp_path, fading):
    fading.copies = 2  # the one that is tried, and one of an actor's four
    supervisor = supervisor_for(tiny(env=FADING_ID), tmp_path / "run", Messages(), HostedRuntime())
    with pytest.raises(UserError, match=r"cannot be made \(ConnectionError: no more"):
        supervisor.run()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_environment_that_will_not_close_does_not_make_a_failure_of_a_run(tmp_path, fading):
    supervisor = supervisor_for(tiny(env=FADING_ID, stop={"learner_steps": 20}), tmp_path / "run")
    fading.fuel, fading.at = 0, ("close",)
    assert supervisor.run()["stop_reason"] == "learner_steps"

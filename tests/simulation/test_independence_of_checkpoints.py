"""What a run learns does not depend on when it is saved, and no evaluation is skipped."""

from __future__ import annotations

import pytest

from actors.environments import environment_spec
from common.config_toml import merge
from deploy.launch.resume import resume
from deploy.launch.runtimes import open_runtime
from deploy.launch.train import train
from support.fakes import Messages, supervisor_for, tiny
from support.program import reports_in

STEPS = 100


def config_of(every_learner_steps, **over):
    """A run of `STEPS` learner steps with a checkpoint at that interval."""
    checkpoint = {"every_learner_steps": every_learner_steps, "every_s": None}
    base = {"checkpoint": checkpoint, "stop": {"learner_steps": STEPS}}
    return tiny(**merge(base, over))


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """Summaries of the same run with many checkpoints, and with one."""
    path = tmp_path_factory.mktemp("intervals")
    return [train(config_of(every), path / f"every-{every}") for every in (10, 10_000)]


def test_a_run_learns_the_same_whatever_the_interval_of_its_checkpoints(summaries):
    often, once = summaries
    for key in ("weights_sha256", "env_steps", "transitions", "episodes", "score"):
        assert often[key] == once[key], key


def test_an_episode_may_outlast_any_number_of_checkpoints(tmp_path):
    # A checkpoint every 10 learner steps: 80 env steps of each of 4 copies lie between two
    # checkpoints, and an episode of Sleep-v0 has 200.
    env = {"id": "deploy.bench.sleep_env:Sleep-v0", "kwargs": {"step_s": 0.0}}
    over = {"env": env, "evaluation": {"every_learner_steps": None}}
    often = {"samples_per_insert": 1.0}
    config = config_of(10, **over, learner=often, stop={"learner_steps": 40, "score": None})
    assert config.exact_episode_steps == 80
    summary = train(config, tmp_path / "kept")
    assert summary["episodes"] > 0
    exact = merge(config.model_dump(mode="json"), {"checkpoint": {"exact": True}})
    assert train(type(config)(**exact), tmp_path / "exact")["episodes"] == 0


def test_exact_checkpoints_warn_where_episodes_would_be_cut_short():
    def warnings_of(**over):
        config, view = config_of(10, **over), Messages()
        spec = environment_spec(config.env)
        with open_runtime(config, spec, True, None, view, "run"):
            return view.lines

    # 10 learner steps × 32 samples ÷ 4 samples per insert ÷ 4 copies = 20 of CartPole's 500 steps.
    (line,) = warnings_of(checkpoint={"exact": True})
    assert "no episode gets longer than 20 env steps, of up to 500" in line
    assert warnings_of() == []
    assert warnings_of(checkpoint={"exact": True, "every_learner_steps": 250}) == []


@pytest.mark.parametrize("exact", [False, True])
def test_an_evaluation_that_is_due_with_a_checkpoint_takes_place(tmp_path, exact):
    every = {"every_learner_steps": 30}
    config = config_of(30, evaluation=every, checkpoint={"exact": exact})
    supervisor = supervisor_for(config, tmp_path / "run")
    evaluated, take = [], supervisor.context.records.evaluation
    supervisor.context.records.evaluation = lambda report: (
        evaluated.append(report.learner_steps),
        take(report),
    )[1]
    supervisor.run()
    # Due at multiples of 30, and at the end; a call of the learner's may be 10 steps long.
    *due, last = evaluated
    assert [steps // 30 for steps in due] == [1, 2, 3]
    assert all(steps % 30 < 10 for steps in due)
    assert last == STEPS


def test_an_evaluation_that_was_due_when_the_run_was_saved_takes_place_after_a_resume(tmp_path):
    run = tmp_path / "run"
    config = config_of(50, evaluation={"every_learner_steps": 40}, stop={"learner_steps": 90})
    supervisor = supervisor_for(config, run)
    # As on Ray, where the run continues during an evaluation: it is in progress at the checkpoint.
    supervisor.evaluation.begin_if_due = lambda: False
    supervisor.shutdown.finish = lambda reason: None
    supervisor.checkpoints.write_if_due = lambda now, evaluating: iter(())
    summary = supervisor.run()
    assert summary["score"] is None
    assert resume(run, {"stop": {"learner_steps": 95}})["score"] is not None
    scored = [line["learner_steps"] for line in reports_in(run) if line["score"] is not None]
    assert min(scored) <= 95

"""The loop's records and ends, on a real program in one process."""

from __future__ import annotations

import time

import pytest
from program_helpers import TINY

from common.checkpoint import CheckpointStore
from common.config import merge
from common.types import UserError
from deploy.metrics import RunFolder, read_metrics
from deploy.program import build
from deploy.remote import InlineRuntime
from deploy.run import environment_spec, make_config, resume, train
from deploy.supervisor import RunFailedError, Supervisor


class Messages:
    """A view that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, report) -> None:
        pass

    def message(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None:
        pass


def tiny(**over):
    return make_config("cartpole", overrides=merge(TINY, over))


def supervisor_for(config, path, view=None):
    spec = environment_spec(config.env)
    folder = RunFolder.create(path, config)
    program = build(config, spec, InlineRuntime())
    return Supervisor(program, folder, view or Messages(), time.monotonic())


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    save, failures = CheckpointStore.save, []

    def disk_full_at_first(self, step, tensors, state):
        if len(failures) < 2:
            failures.append(step)
            raise OSError(28, "No space left on device", str(self.folder))
        return save(self, step, tensors, state)

    monkeypatch.setattr(CheckpointStore, "save", disk_full_at_first)
    view = Messages()
    config = tiny(
        stop={"learner_steps": 200}, checkpoint={"every_s": None, "every_learner_steps": 20}
    )
    supervisor_for(config, tmp_path / "run", view).run()
    said = [line for line in view.lines if "could not be written" in line]
    assert len(said) == 2
    assert failures[1] - failures[0] >= 20, "tried again when the next one is due, not at once"
    assert "No space left" in said[0]
    assert CheckpointStore(tmp_path / "run" / "checkpoints", 3).newest().state["counters"]


def test_a_last_checkpoint_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    def disk_full(self, step, tensors, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "save", disk_full)
    supervisor = supervisor_for(tiny(stop={"learner_steps": 20}), tmp_path / "run")
    with pytest.raises(RunFailedError, match=r"No space left on device.*no checkpoint yet"):
        supervisor.run()


def test_an_error_of_the_environment_inline_comes_through_and_the_learner_is_saved(tmp_path):
    config = tiny(stop={"learner_steps": 10_000})
    supervisor = supervisor_for(config, tmp_path / "run")
    environment = supervisor._seats[0].handle._target._environment
    step, calls = environment.step, []

    def breaks_later(actions):
        calls.append(1)
        if len(calls) == 200:
            raise ZeroDivisionError("in the simulator")
        return step(actions)

    environment.step = breaks_later
    with pytest.raises(ZeroDivisionError, match="in the simulator"):
        supervisor.run()
    saved = CheckpointStore(tmp_path / "run" / "checkpoints", 3).newest()
    assert saved.state["counters"]["learner_steps"] > 0


def test_a_stop_that_is_asked_for_hands_out_nothing_more(tmp_path):
    supervisor = supervisor_for(tiny(), tmp_path / "run")
    supervisor.request_stop("interrupted")
    supervisor.request_stop("terminated")
    summary = supervisor.run()
    assert summary["stop_reason"] == "interrupted"
    assert summary["env_steps"] == 0
    assert summary["learner_steps"] == 0
    assert summary["score"] is None


def test_a_run_that_ends_by_a_count_is_evaluated_at_its_end(tmp_path):
    summary = train(tiny(stop={"learner_steps": 130}), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert last["score"] == pytest.approx(summary["score"], abs=1e-3)
    folder = RunFolder.open(tmp_path / "run")
    _, meta = folder.load_best()
    assert 100 <= int(meta["learner_steps"]) <= 130


def test_every_life_of_a_run_has_random_streams_of_its_own(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    returns = []
    for steps in (60, 100):
        resume(run, {"stop": {"learner_steps": steps}})
    for report in read_metrics(run):
        returns.append([ret for ret, *_ in report["episodes"]])
    lives = [r for r in returns if r]
    assert (run / "lives").read_text() == "3"
    assert len({tuple(r[:6]) for r in lives}) == len(lives)


def test_a_resume_records_the_configuration_it_goes_on_with(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    resume(run, {"learner": {"learning_rate": 0.02}, "stop": {"learner_steps": 40}})
    assert RunFolder.open(run).config.learner.learning_rate == 0.02


def test_a_checkpoint_of_another_environment_is_told_by_the_checkpoint_itself(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    text = (run / "config.toml").read_text()
    # CartPole-v0 has the same shapes: only what the checkpoint says gives it away.
    (run / "config.toml").write_text(text.replace("CartPole-v1", "CartPole-v0"))
    with pytest.raises(UserError, match=r"env\.id=CartPole-v0.*made with CartPole-v1"):
        resume(run, {"stop": {"learner_steps": 40}})


ENDLESS = """
import time
import gymnasium as gym, numpy as np

class Endless(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        time.sleep(0.0002)
        return np.zeros(2, np.float32), 0.0, False, False, {}

gym.register("Endless-v0", Endless)
"""


@pytest.fixture
def endless(tmp_path, monkeypatch):
    (tmp_path / "endless_envs.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    return {"id": "endless_envs:Endless-v0"}


def test_an_evaluation_that_does_not_end_holds_up_neither_the_clock_nor_the_reports(
    tmp_path, endless
):
    start = time.monotonic()
    summary = train(
        tiny(env=endless, evaluation={"every_learner_steps": 10}, stop={"wall_s": 4.0}),
        tmp_path / "run",
    )
    assert summary["stop_reason"] == "wall_s"
    assert time.monotonic() - start < 8, "27,000 steps of 5 copies take far longer"
    assert sum(line["evaluating"] for line in read_metrics(tmp_path / "run")) > 1


def test_a_signal_ends_the_last_evaluation(tmp_path, endless):
    class Interrupting(Messages):
        def update(self, report) -> None:
            if report["evaluating"]:
                supervisor.request_stop("interrupted")

    config = tiny(env=endless, stop={"learner_steps": 10})
    supervisor = supervisor_for(config, tmp_path / "run", Interrupting())
    start = time.monotonic()
    summary = supervisor.run()
    assert time.monotonic() - start < 10
    assert summary["stop_reason"] == "learner_steps"
    assert summary["score"] is None
    assert CheckpointStore(tmp_path / "run" / "checkpoints", 3).newest()


def test_a_start_that_fails_leaves_no_folder_and_an_empty_one_of_the_users(tmp_path, monkeypatch):
    def no_start(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.program.build", no_start)
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in (tmp_path / "run", mine):
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), path)
    assert not (tmp_path / "run").exists()
    assert list(mine.iterdir()) == []

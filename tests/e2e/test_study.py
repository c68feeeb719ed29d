"""A real study on Ray Tune: a trial that fails, a kill, and the same command once more."""

from __future__ import annotations

import json

from deploy.cli.exit_codes import TRIALS_FAILED
from deploy.runs.study_folder import read_study
from support.program import (
    SHORT_RUN_S,
    TINY,
    command_of,
    descendants,
    raydqn,
    reports_in,
    running,
    summary_of,
    wait_for,
)
from support.studies import write_study_file


def values(section: str, given: dict) -> str:
    lines = [f"{section}.{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join(lines)


WAITING = """
import os, time
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Waiting(CartPoleEnv):
    steps = 0

    def step(self, action):
        Waiting.steps += 1
        while Waiting.steps > 800 and os.path.exists({gate!r}):
            time.sleep(0.01)
        return super().step(action)

gymnasium.register("Waiting-v0", Waiting, max_episode_steps=500)
"""
"""CartPole that waits between the first checkpoint and the end while a file is there."""
STUDY = f"""
preset = "cartpole"
parallel = 1
[overrides]
env.id = "waiting:Waiting-v0"
{chr(10).join(values(section, given) for section, given in TINY.items())}
stop.score = "none"
stop.learner_steps = 500
checkpoint.every_learner_steps = 50
[variants.bad]
network.init = "not/there"
[variants.good]
"""


def test_a_killed_study_with_a_failing_trial_goes_on_and_ends(tmp_path):
    file = write_study_file(tmp_path, STUDY)
    gate = tmp_path / "gate"
    gate.touch()
    (tmp_path / "waiting.py").write_text(WAITING.format(gate=str(gate)))
    folder = tmp_path / "study"
    command = ("study", str(file), "--study-dir", str(folder), "--json")
    run = folder / "runs" / "cartpole-good-s1"
    with running(*command, pythonpath=tmp_path) as process:
        wait_for(lambda: list(run.glob("checkpoints/0*")) or process.poll() is not None)
        (first,) = (child for child in descendants(process) if str(run) in command_of(child))
        study = first.ppid()
        process.kill()
        wait_for(lambda: not first.is_running() or first.ppid() != study)
        gate.unlink()
        first.wait(SHORT_RUN_S)
    begun = read_study(folder)
    assert [(trial.name, trial.status) for trial in begun.trials] == [
        *(("cartpole-bad-s1", "failed"), ("cartpole-good-s1", "pending")),
    ]
    assert "not/there: there is no such file" in begun.trials[0].error
    code, out, err = raydqn(*command, pythonpath=tmp_path)
    assert code == TRIALS_FAILED, err
    summary = summary_of(out)
    assert (summary["finished"], summary["failed"], summary["pending"]) == (1, 1, 0)
    assert summary["best"] == "cartpole-good-s1"
    assert reports_in(run)[-1]["learner_steps"] == 500
    assert int((run / "lives").read_text()) == 2  # it was resumed
    assert "cartpole-bad-s1: failed: " in err
    assert not (folder / "tune").exists()

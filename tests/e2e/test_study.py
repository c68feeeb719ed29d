"""A real study on Ray Tune: a trial that fails, a kill, and the same command once more."""

from __future__ import annotations

import json

from deploy.cli.exit_codes import TRIALS_FAILED
from deploy.runs.study_folder import read_study
from support.program import TINY, raydqn, reports_in, running, summary_of, wait_for
from support.studies import write_study_file


def values(section: str, given: dict) -> str:
    lines = [f"{section}.{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join(lines)


STUDY = f"""
preset = "cartpole"
parallel = 1
[overrides]
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
    folder = tmp_path / "study"
    command = ("study", str(file), "--study-dir", str(folder), "--json")
    run = folder / "runs" / "cartpole-good-s1"
    with running(*command) as process:
        wait_for(lambda: list(run.glob("checkpoints/0*")) or process.poll() is not None)
        process.kill()
    begun = read_study(folder)
    assert [(trial.name, trial.status) for trial in begun.trials] == [
        *(("cartpole-bad-s1", "failed"), ("cartpole-good-s1", "pending")),
    ]
    assert "not/there: there is no such file" in begun.trials[0].error
    code, out, err = raydqn(*command)
    assert code == TRIALS_FAILED, err
    summary = summary_of(out)
    assert (summary["finished"], summary["failed"], summary["pending"]) == (1, 1, 0)
    assert summary["best"] == "cartpole-good-s1"
    assert reports_in(run)[-1]["learner_steps"] == 500
    assert int((run / "lives").read_text()) == 2  # it was resumed
    assert "cartpole-bad-s1: failed: " in err
    assert not (folder / "tune").exists()

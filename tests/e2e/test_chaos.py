"""`raydqn chaos`: parts of a live run die at random, and it learns all the same."""

from __future__ import annotations

import pytest

from common.config import Config
from common.config_toml import to_toml
from deploy.control.chaos import KINDS
from support.fakes import Messages, supervisor_for, tiny
from support.program import SHORT_RUN_S, raydqn_here, reports_in, running, summary_of, wait_for


def test_cartpole_is_learnt_under_chaos(tmp_path):
    """In one process, where a death is simulated; tests/e2e/test_parts.py has it on Ray."""
    run = tmp_path / "run"
    options = ("--run-dir", str(run), "--seed", "1", "--replay.shards", "2", "--json")
    often = ("--checkpoint.every-s", "5", "--checkpoint.every-learner-steps", "500")
    without_end = ("--stop.score", "none", "--stop.learner-steps", "none")

    def learnt_and_restarted():
        report = (reports_in(run) or [{}])[-1]
        assert process.poll() is None
        return (report.get("score") or 0) >= 300 and report["restarts"] >= 2

    with running("train", "cartpole", "--inline", *options, *often, *without_end) as process:
        wait_for(lambda: reports_in(run) and reports_in(run)[-1]["learner_steps"] > 0)
        with running("chaos", str(run), "--every", "2s", "--kinds", ",".join(KINDS)) as chaos:
            wait_for(learnt_and_restarted, SHORT_RUN_S)
            process.terminate()
            out, err = process.communicate(timeout=SHORT_RUN_S)
            said, _ = chaos.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = summary_of(out)
    assert summary["stop_reason"] == "terminated"
    assert summary["score_episodes"] == 100
    deaths = said.count("requested: kill ")
    # The last may have come too late, and some hit a part that was dead still, or an evaluator
    # where there was none.
    assert summary["restarts"] >= 0.8 * (deaths - (out + err).count(": skipped")) - 2
    assert "the run has ended" in said
    assert chaos.returncode == 0


def test_a_part_without_progress_since_its_start_is_skipped(tmp_path):
    """A part that dies faster than it starts never makes progress, and the run would fail."""
    view, request = Messages(), {"kind": "learner", "number": 0}
    supervisor = supervisor_for(tiny(stop={"learner_steps": 20}), tmp_path / "run", view)
    learner, crash = supervisor.fleet.learner, supervisor.control.crash
    skipped = "chaos: learner has made no progress since its start: skipped"
    crash(request)  # it is not ready yet
    assert view.lines.pop() == skipped
    supervisor.run()
    learner.consecutive_failures = 1
    crash(request)
    assert view.lines.pop() == skipped
    learner.consecutive_failures = 0
    crash(request)
    assert view.lines.pop() == "chaos: learner is killed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kinds", "driver"), "--kinds=driver: must be of actor, shard"),
        (("--every", "never"), "--every=never: must be a time above 0, such as 20s or 2m"),
        (("--every", "0s"), "must be a time above 0"),
        ((), "the run is not active"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path, arguments, message):
    (tmp_path / "config.toml").write_text(to_toml(Config()))
    code, _, err = raydqn_here("chaos", str(tmp_path), *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


NONSENSE = (
    "crash = 3",
    '[crash]\nkind = "driver"\nnumber = 0',
    '[crash]\nkind = "actor"\nnumber = -1',
)


def test_a_control_file_that_asks_for_nonsense_is_named_and_the_run_continues(tmp_path):
    run = tmp_path / "run"
    with running("train", "--inline", "--run-dir", str(run)) as process:
        wait_for(lambda: reports_in(run))
        for request in NONSENSE:
            (run / "control.toml").write_text(request)
            wait_for(lambda: not (run / "control.toml").exists(), 20)
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said = (out + err).count("and a whole number; nothing was changed")
    assert said == len(NONSENSE)

"""The whole program in one process."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from common import wire
from common.config_toml import merge
from common.errors import UserError
from deploy.launch.presets import make_config
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import read_metrics
from replay_server import sum_tree
from support.program import (
    TINY,
    TINY_OPTIONS,
    checkpoints_in,
    interrupt,
    learner_steps_in,
    raydqn,
    raydqn_here,
    running,
    summary_of,
    wait_for,
)


def tiny(**over):
    return make_config("cartpole", overrides=merge(TINY, over))


def test_same_seed_gives_the_same_weights_bit_for_bit_in_two_processes(tmp_path):
    hashes = []
    for name, seed, command in (("a", 7, raydqn), ("b", 7, raydqn_here), ("c", 8, raydqn_here)):
        code, out, err = command(
            *("train", "cartpole", "--inline", "--json", "--run-dir", str(tmp_path / name)),
            *("--seed", str(seed), "--stop.learner-steps", "250", *TINY_OPTIONS),
            *("--evaluation.every-learner-steps", "125"),
        )
        assert code == 0, err
        assert summary_of(out)["learner_steps"] == 250
        hashes.append(summary_of(out)["weights_sha256"])
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_reports_and_the_clock_of_checkpoints_do_not_change_what_is_learnt(tmp_path):
    plain = train(tiny(stop={"learner_steps": 300}), tmp_path / "a")
    busy = train(
        tiny(
            stop={"learner_steps": 300},
            checkpoint={"every_s": 1e-6},  # on Ray only: in one process steps alone count
            report={"every_s": 0.001, "replay_every_s": 0.002},
        ),
        tmp_path / "b",
    )
    assert plain["weights_sha256"] == busy["weights_sha256"]
    assert len(checkpoints_in(tmp_path / "b").names()) == 1, "the last one"


def test_where_checkpoints_go_and_how_many_stay_does_not_change_what_is_learnt(tmp_path):
    # Their times do, in one process: all episodes end there, for a resume to be exact.
    over = {"stop": {"learner_steps": 200}, "replay": {"shards": 2}}
    every = {"every_learner_steps": 40}
    plain = train(tiny(**over, checkpoint=every), tmp_path / "a")
    elsewhere = {"keep": 1, "storage": str(tmp_path / "elsewhere")}
    other = train(tiny(**over, checkpoint=every | elsewhere), tmp_path / "b")
    assert plain["weights_sha256"] == other["weights_sha256"]
    assert len(checkpoints_in(tmp_path / "a").names()) == 3
    assert not (tmp_path / "b" / "checkpoints").exists()
    names = [path.name for path in (tmp_path / "elsewhere" / "b").iterdir()]
    assert len([name for name in names if "-step-" in name]) == 1


STACKED = {"stop": {"learner_steps": 300}, "env": {"stack": 3}, "replay": {"shards": 2}}
"""Some transitions are evicted in that time."""


@pytest.fixture(scope="module")
def plainly_stored(tmp_path_factory):
    """Summary of a run with the default ways to store transitions, trained once."""
    return train(tiny(**STACKED), tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("way", ["lz4", "zstd", "compiled tree", "numpy tree"])
def test_how_the_memory_keeps_its_items_does_not_change_what_is_learnt(
    tmp_path, monkeypatch, plainly_stored, way
):
    over = STACKED
    if way in ("lz4", "zstd"):
        over = merge(STACKED, {"replay": {"compression": way}})
    else:
        monkeypatch.setattr(sum_tree, "COMPILED_AFTER_CALLS", 1 if way == "compiled tree" else -1)
    other = train(tiny(**over), tmp_path / "run")
    assert plainly_stored["weights_sha256"] == other["weights_sha256"]


def test_statistics_of_the_memory_are_in_the_metrics(tmp_path):
    over = {"stop": {"learner_steps": 300}, "replay": {"shards": 2}}
    summary = train(tiny(**over, report={"every_s": 0.01, "replay_every_s": 0.02}), tmp_path / "a")
    told = [line["replay"] for line in read_metrics(tmp_path / "a") if line["replay"]]
    assert len(told) >= 2
    assert [shard["shard"] for shard in told[-1]["shards"]] == [0, 1]
    whole = told[-1]["all"]
    assert whole["inserted"] == whole["size"] + whole["evicted"] <= summary["transitions"]
    assert sum(whole["times_sampled"].values()) == whole["size"]
    assert sum(whole["priorities"].values()) == whole["size"]
    assert whole["nbytes"] > 0
    assert sum(one["all"]["drawn"] for one in told) <= whole["sampled"]


def test_a_run_folder_holds_what_the_readme_says(tmp_path):
    run = tmp_path / "run"
    summary = train(tiny(stop={"learner_steps": 400}), run)
    assert RunFolder.open(run).config == tiny(stop={"learner_steps": 400})
    reports = read_metrics(run)
    for key in (
        "wall_s",
        "env_steps",
        "learner_steps",
        "env_steps_per_s",
        "learner_steps_per_s",
        "samples_per_insert",
        "score",
        "loss",
        "epsilon",
    ):
        assert key in reports[-1], key
    assert reports[-1]["learner_steps"] == summary["learner_steps"] == 400
    for earlier, later in itertools.pairwise(reports):
        for counter in ("wall_s", "env_steps", "learner_steps", "transitions", "episodes_total"):
            assert earlier[counter] <= later[counter]
    episodes = [e for report in reports for e in report["episodes"]]
    assert len(episodes) == summary["episodes"]
    assert all(ret == length for ret, length, _ in episodes), "CartPole pays 1 for each step"
    assert list(run.glob("events.out.tfevents.*"))
    assert (run / "best.safetensors").is_file()
    assert json.loads((run / "summary.json").read_text()) == summary
    checkpoint = checkpoints_in(run).newest()
    assert checkpoint.state["counters"]["learner_steps"] == 400
    assert checkpoint.name == "000001-step-00000400"
    files = {path.name for path in (run / "checkpoints" / checkpoint.name).iterdir()}
    assert files == {"learner.safetensors", "state.json", "shard-0.rdqn", "manifest.json"}


def test_tensorboard_can_read_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny(stop={"learner_steps": 200}), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Scalars("learner_steps")[-1].value == 200
    assert "loss" in events.Tags()["scalars"]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ({"learner_steps": 50}, "learner_steps"),
        ({"env_steps": 600}, "env_steps"),
        ({"wall_s": 1.0}, "wall_s"),
        ({"score": 1.0}, "score"),
    ],
)
def test_each_stop_condition_stops(tmp_path, stop, reason):
    config = tiny(stop={"score": None, "env_steps": None, **stop})
    summary = train(config, tmp_path / "run")
    assert summary["stop_reason"] == reason
    if "learner_steps" in stop:
        assert summary["learner_steps"] == 50
    if "env_steps" in stop:
        assert 600 <= summary["env_steps"] < 600 + 100
    if "score" in stop:
        assert summary["score"] >= 1.0


def test_samples_per_insert_is_kept(tmp_path):
    config = tiny(stop={"learner_steps": 1_000})
    summary = train(config, tmp_path / "run")
    samples = 1_000 * config.learner.batch_size
    wanted = config.learner.samples_per_insert
    centre = wanted * config.learner.warmup_transitions
    surplus = wanted * summary["transitions"] - samples
    # Beside the range itself, one message may be under way.
    slack = wanted * config.max_chunk_transitions
    assert abs(surplus - centre) <= config.ratio_error + slack


def test_resume_continues_and_appends(tmp_path):
    run = tmp_path / "run"
    first = train(tiny(stop={"learner_steps": 200}), run)
    lines = len(read_metrics(run))
    second = resume(run, {"stop": {"learner_steps": 350}})
    assert second["learner_steps"] == 350
    assert second["env_steps"] > first["env_steps"]
    assert second["wall_s"] > first["wall_s"]
    reports = read_metrics(run)
    assert len(reports) > lines
    assert min(r["learner_steps"] for r in reports[lines:]) >= 200
    # Weights were taken over: one step after the resume they are near those before it.
    versions = [line["weights_version"] for line in reports]
    first_known = next(version for version in versions[lines:] if version is not None)
    assert first_known > versions[lines - 1]


@pytest.mark.parametrize(
    ("stop", "named"),
    [
        ({"learner_steps": 100}, "stop.learner_steps=100"),
        ({"env_steps": 3_000}, "stop.env_steps=3000"),
        ({"wall_s": 1e-6}, "stop.wall_s=1e-06"),
        ({"score": 1.0}, "stop.score=1"),
    ],
)
def test_resume_of_a_finished_run_is_refused_and_leaves_it_alone(tmp_path, stop, named):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": None, "score": None} | stop), run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=rf"has reached {named} already .* or none"):
        resume(run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_run_that_reached_its_score_resumes_with_a_higher_one(tmp_path):
    run = tmp_path / "run"
    first = train(tiny(stop={"score": 1.0}), run)
    steps = first["learner_steps"] + 60
    second = resume(run, {"stop": {"score": 1e9, "learner_steps": steps}})
    assert (first["stop_reason"], second["stop_reason"]) == ("score", "learner_steps")
    assert second["learner_steps"] == steps


def test_the_configured_limiter_counts_after_a_resume_not_the_old_one(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 200}), run)
    before = resume(run, {"stop": {"learner_steps": 201}})
    after = resume(run, {"learner": {"samples_per_insert": 16.0}, "stop": {"learner_steps": 1_001}})
    inserted = after["transitions"] - before["transitions"]
    assert inserted < 800 * 32 / 4.0, "still 4 samples per insert"


def test_a_run_is_changed_from_another_terminal_while_it_trains(tmp_path):
    run = tmp_path / "run"
    change = ("set", str(run), "--learner.samples-per-insert", "12")
    with running(
        *("train", "cartpole", "--inline", "--run-dir", str(run), "--stop.score", "none"),
        *TINY_OPTIONS,
    ) as process:
        wait_for(lambda: learner_steps_in(run) > 100)
        assert raydqn(*change) == (0, "applied: learner.samples_per_insert 4 → 12\n", "")
        assert not (run / "control.toml").exists()
        assert RunFolder.open(run).config.learner.samples_per_insert == 12.0
        code, _, err = raydqn_here(*change, "--learner.samples-per-insert-error", "10")
        assert code == 2
        assert "samples_per_insert_error=10: must be at least 384" in err
        interrupt(process)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert out.count("applied: learner.samples_per_insert 4 → 12") == 1
    code, _, err = raydqn_here(*change)
    assert code == 2
    assert "the run is not active" in err


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--inline", "--run-dir", str(run), "--stop.score", "none"),
        *TINY_OPTIONS,
    ) as process:
        wait_for(lambda: learner_steps_in(run) > 50)
        interrupt(process)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert ": interrupted (SIGINT); score" in out
        assert f"to continue: raydqn resume {run}\n" in out
        assert err == ""
        saved = checkpoints_in(run).newest()
        assert saved.state["counters"]["learner_steps"] == learner_steps_in(run)
        code, out, err = raydqn_here(
            "resume", str(run), "--inline", "--json", "--stop.wall-s", "none",
            "--stop.learner-steps", str(learner_steps_in(run) + 20),
        )  # fmt: skip
        assert code == 0, err
        assert summary_of(out)["stop_reason"] == "learner_steps"


def test_ctrl_c_twice_stops_at_once(tmp_path):
    run = tmp_path / "run"
    with running(
        *("train", "cartpole", "--inline", "--run-dir", str(run), "--stop.score", "none"),
        # The first Ctrl-C waits for the call under way: here that is minutes.
        *("--learner.train-steps", "1000000", "--learner.samples-per-insert", "1000000"),
        *("--learner.warmup-transitions", "100", "--actors.envs", "4"),
    ) as process:
        wait_for(lambda: (run / "metrics.jsonl").exists())
        time.sleep(2)  # time to begin that call
        interrupt(process)
        time.sleep(1)
        assert process.poll() is None, "the first is a request"
        interrupt(process)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "saving a checkpoint; a second Ctrl-C stops at once" in out
        assert err.strip() == "raydqn: stopped at once; nothing to resume"


def test_rewards_too_large_to_learn_from_stop_the_run_with_the_batch_saved(tmp_path):
    (tmp_path / "huge_rewards.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Broken(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        o, r, t, u, i = super().step(action)\n"
        "        return o, 3e38, t, u, i\n"
        "gym.register('Broken-v0', Broken, max_episode_steps=50)\n"
    )
    run = tmp_path / "run"
    code, _out, err = raydqn(
        *("train", "cartpole", "--inline", "--run-dir", str(run)),
        *("--env.id", "huge_rewards:Broken-v0", *TINY_OPTIONS),
        pythonpath=tmp_path,
    )
    assert code == 1
    assert "not finite after 0 learner steps" in err
    assert "Traceback" not in err
    arrays, _ = wire.decode((run / "diverged-batch.rdqn").read_bytes())
    assert arrays["reward"].shape == (32,)
    assert (arrays["reward"] > 1e38).any()


def test_an_environment_and_a_torso_of_the_users_own_need_no_change_of_our_code(tmp_path):
    (tmp_path / "my_package.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "from torch import nn\n"
        "class Torso(nn.Sequential):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__(nn.Linear(shape[0], 12), nn.Tanh(), nn.Linear(12, 12))\n"
        "        self[2].requires_grad_(False)\n"
        "class Corridor(gym.Env):\n"
        "    '''Walk right to the end: +1 there, nothing elsewhere.'''\n"
        "    observation_space = gym.spaces.Discrete(5)\n"
        "    action_space = gym.spaces.Discrete(2, start=1)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed)\n"
        "        self.at = 0\n"
        "        return self.at, {}\n"
        "    def step(self, action):\n"
        "        assert action in (1, 2)\n"
        "        self.at = max(0, self.at + (1 if action == 2 else -1))\n"
        "        done = self.at == 4\n"
        "        return self.at, float(done), done, False, {}\n"
        "gym.register('MyEnv-v0', Corridor, max_episode_steps=30)\n"
    )
    code, out, err = raydqn(
        *("train", "cartpole", "--inline", "--json", "--run-dir", str(tmp_path / "run")),
        *("--env.id", "my_package:MyEnv-v0", "--stop.score", "1.0"),
        *("--network.kind", "my_package:Torso"),
        *("--stop.env-steps", "100000", *TINY_OPTIONS),
        pythonpath=tmp_path,
    )
    assert code == 0, err
    assert summary_of(out)["stop_reason"] == "score", out
    steps = summary_of(out)["learner_steps"] + 20
    more = ("--stop.learner-steps", str(steps), "--stop.score", "none", "--json")
    code, out, err = raydqn("resume", str(tmp_path / "run"), *more, pythonpath=tmp_path)
    assert code == 0, err
    assert summary_of(out)["learner_steps"] == steps
    code, out, err = raydqn("evaluate", str(tmp_path / "run"), "--json", pythonpath=tmp_path)
    assert code == 0, err
    assert summary_of(out)["score"] == 1.0


def test_a_preset_score_is_dropped_with_another_environment():
    assert make_config("cartpole").stop.score is not None
    assert make_config("cartpole", overrides={"env": {"id": "Acrobot-v1"}}).stop.score is None
    with_score = {"env": {"id": "Acrobot-v1"}, "stop": {"score": -100.0}}
    assert make_config("cartpole", overrides=with_score).stop.score == -100.0


def test_resume_refuses_another_environment_and_network_and_changes_nothing(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="Acrobot-v1"):
        resume(run, {"env": {"id": "Acrobot-v1"}})
    with pytest.raises(UserError, match="another network"):
        resume(run, {"network": {"hidden": [16]}})
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_signal_before_the_run_begins_is_told_and_the_command_can_be_repeated(tmp_path):
    module, reached = tmp_path / "slow_module.py", tmp_path / "reached"
    module.write_text(f"import time\nopen({str(reached)!r}, 'w').close()\ntime.sleep(60)\n")
    options = ("--inline", "--env.id", "slow_module:Slow-v0", "--run-dir", str(tmp_path / "run"))
    for more, code in (((), 130), (("--resume-if-exists",), 75)):
        with running("train", *options, *more, pythonpath=tmp_path) as process:
            wait_for(reached.exists, 30)
            reached.unlink()
            process.terminate()
            _, err = process.communicate(timeout=120)
        assert process.returncode == code
        assert err.splitlines() == ["raydqn: stopped before the run began; nothing to resume"]

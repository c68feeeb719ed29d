"""The loop's records and ends, on a real program in one process."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
import threading
import time

import gymnasium as gym
import pytest

from actors.environments import environment_spec
from common import wire
from common.checkpoint import Checkpoint, CheckpointStore
from common.config import Config
from common.config_sections import EnvConfig
from common.config_text import build as build_config
from common.config_text import merge
from common.errors import RemoteDiedError, RunFailedError, UserError
from common.handles import Failed, InlineHandle
from common.parts import part_name
from deploy.launch.presets import make_config
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.program import build
from deploy.runs.checkpoint_schema import FORMAT, check_restorable
from deploy.runs.folder import RunFolder
from deploy.runs.metrics import MetricsWriter, read_metrics
from deploy.runtime.inline import InlineRuntime
from deploy.supervisor.loop import NAMED_PARTS, VERSIONS_BESIDE, Supervisor
from replay_server.rate_limiter import RateLimiter
from support.program import TINY, checkpoints_in, reports_in


class Messages:
    """A view that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, report) -> None:
        pass

    def notify(self, text: str, level: int = 20, detail: str = "") -> None:
        self.lines.append(text)

    def close(self) -> None:
        pass


def tiny(**over):
    return make_config("cartpole", overrides=merge(TINY, over))


def supervisor_for(config, path, view=None, runtime=None):
    spec = environment_spec(config.env)
    folder = RunFolder.create(path, config)
    program = build(config, spec, runtime or InlineRuntime())
    return Supervisor(program, folder, view or Messages(), time.monotonic())


def supervisor_that_resumes(path, view=None, over=None, runtime=None):
    """In one process, as `resume` makes it: learner and shards are made from the checkpoint."""
    folder = RunFolder.open(path, over)
    checkpoint = folder.checkpoints.newest()
    spec = environment_spec(folder.config.env)
    program = build(folder.config, spec, runtime or InlineRuntime(), 1, checkpoint)
    supervisor = Supervisor(program, folder, view or Messages(), time.monotonic())
    supervisor.restore(checkpoint)
    return supervisor


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    commit, failures = CheckpointStore.commit, []

    def disk_full_at_first(self, name, tensors, state, files=None):
        if len(failures) < 2:
            failures.append(int(name.rpartition("-")[2]))
            raise OSError(28, "No space left on device", self.storage.url)
        commit(self, name, tensors, state, files)

    monkeypatch.setattr(CheckpointStore, "commit", disk_full_at_first)
    view = Messages()
    config = tiny(
        stop={"learner_steps": 200}, checkpoint={"every_s": None, "every_learner_steps": 20}
    )
    supervisor_for(config, tmp_path / "run", view).run()
    said = [line for line in view.lines if "could not be written" in line]
    assert len(said) == 2
    assert failures[1] - failures[0] >= 20, "tried again when the next one is due, not at once"
    assert "No space left" in said[0]
    assert checkpoints_in(tmp_path / "run").newest().state["counters"]


def test_inline_all_actors_are_up_even_where_they_began_anew_at_the_very_end(tmp_path):
    stop = {"learner_steps": 200}
    config = tiny(stop=stop, checkpoint={"every_s": None, "every_learner_steps": 200})
    supervisor_for(config, tmp_path / "run").run()
    told = [(report["actors"], report["actors_up"]) for report in reports_in(tmp_path / "run")]
    assert set(told) == {(1, 1)}


def test_a_checkpoint_that_cannot_be_written_ends_the_run_where_that_is_wished(
    tmp_path, monkeypatch
):
    def disk_full(self, name, tensors, state, files=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "commit", disk_full)
    config = tiny(
        stop={"learner_steps": 200}, checkpoint={"every_learner_steps": 20, "on_failure": "stop"}
    )
    supervisor = supervisor_for(config, tmp_path / "run")
    with pytest.raises(RunFailedError, match=r"checkpoint could not be written: .*No space left"):
        supervisor.run()
    assert 20 <= supervisor._counters.learner_steps < 60


def test_reports_and_best_weights_that_cannot_be_written_do_not_end_the_run(tmp_path, monkeypatch):
    write, save_best, failures = MetricsWriter.write, RunFolder.save_best, []

    def full(real):
        def at_first(*arguments):
            if "save_best" not in failures:
                failures.append(real.__name__)
                raise OSError(28, "No space left on device", "metrics.jsonl")
            return real(*arguments)

        return at_first

    monkeypatch.setattr(MetricsWriter, "write", full(write))
    monkeypatch.setattr(RunFolder, "save_best", full(save_best))
    view = Messages()
    run = tmp_path / "run"
    config = tiny(
        stop={"learner_steps": 200},
        evaluation={"every_learner_steps": 20},
        report={"every_s": 0.001},
    )
    supervisor_for(config, run, view).run()
    said = [line for line in view.lines if "No space left" in line]
    assert said == [
        f"{run}: cannot be written: [Errno 28] No space left on device: 'metrics.jsonl'; going on"
    ]
    assert set(failures) == {"write", "save_best"}
    assert read_metrics(run)[-1]["learner_steps"] == 200, "written again when it can be"


def test_a_last_checkpoint_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    def disk_full(self, name, tensors, state, files=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "commit", disk_full)
    supervisor = supervisor_for(tiny(stop={"learner_steps": 20}), tmp_path / "run")
    with pytest.raises(RunFailedError, match=r"No space left on device.*no checkpoint yet"):
        supervisor.run()


FADING = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Fading(CartPoleEnv):
    'Runs out of fuel; may refuse to be made, or to close, from then on.'
    fuel = 10**9
    copies = 10**9
    at = ()

    def __init__(self, render_mode=None):
        Fading.copies -= 1
        if Fading.copies < 0 or (Fading.fuel <= 0 and "init" in self.at):
            raise ConnectionError("no more of them")
        super().__init__(render_mode)

    def step(self, action):
        Fading.fuel -= 1
        if Fading.fuel <= 0 and "step" in self.at:
            raise ZeroDivisionError("in the simulator")
        return super().step(action)

    def close(self):
        if Fading.fuel <= 0 and "close" in self.at:
            raise OSError("will not go")

gym.register("Fading-v0", Fading, max_episode_steps=50)
"""


@pytest.fixture
def fading(tmp_path, monkeypatch):
    """The class of an environment whose time comes; its id is in `FADING_ID`."""
    (tmp_path / "fading_envs.py").write_text(FADING)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("fading_envs").Fading
    del sys.modules["fading_envs"]
    del gym.registry["Fading-v0"]


FADING_ID = {"id": "fading_envs:Fading-v0"}


class OneAtATime(InlineHandle):
    """As a process does, it serves one caller at a time: checkpoints are written in a thread."""

    def __init__(self, target, name) -> None:
        super().__init__(target, name)
        self._lock = threading.RLock()

    def call(self, method, *args):
        with self._lock:
            return super().call(method, *args)


class HostedRuntime(InlineRuntime):
    """In this process, but as on Ray errors come with the answers, also a constructor's."""

    parallel = True

    def spawn(self, cls, *args, part, incarnation, public_name=None):
        return HostedHandle(lambda: cls(*args), part_name(part, incarnation))


class HostedHandle(OneAtATime):
    def __init__(self, make, name) -> None:
        try:
            super().__init__(make(), name)
        except Exception as error:
            super().__init__(error, name)

    def call(self, method, *args):
        if isinstance(self._target, Exception):
            return Failed(self._target)
        try:
            return super().call(method, *args)
        except Exception as error:
            return Failed(error)

    def ping(self):
        return Failed(self._target) if isinstance(self._target, Exception) else super().ping()


def saved_counters(path):
    return checkpoints_in(path).newest().state["counters"]


def test_an_error_of_the_environment_inline_is_a_failure_and_the_learner_is_saved(tmp_path, fading):
    supervisor = supervisor_for(tiny(env=FADING_ID), tmp_path / "run")
    fading.fuel, fading.at = 1_000, ("step",)
    with pytest.raises(RunFailedError, match=r"step\(\) raised ZeroDivisionError.*raydqn resume"):
        supervisor.run()
    assert saved_counters(tmp_path / "run")["learner_steps"] > 0


def test_a_part_that_cannot_be_made_again_ends_the_run_with_what_was_learnt(tmp_path, fading):
    view = Messages()
    config = tiny(env=FADING_ID, evaluation={"every_learner_steps": 10**6})
    supervisor = supervisor_for(config, tmp_path / "run", view, HostedRuntime())
    fading.fuel, fading.at = 1_000, ("step", "init")
    with pytest.raises(RunFailedError, match=r"actor-0 failed 4 times.*cannot be made.*resume"):
        supervisor.run()
    counters = saved_counters(tmp_path / "run")
    assert counters["learner_steps"] > 0
    assert counters["restarts"] == 3
    assert len(view.lines) == 3


def test_a_part_that_can_be_made_again_at_a_later_try_goes_on(tmp_path, fading):
    class Refuelling(Messages):
        def notify(self, text, level=20, detail="") -> None:
            super().notify(text)
            fading.fuel = 10**9 if "cannot be made" in text else fading.fuel

    config = tiny(
        env=FADING_ID,
        evaluation={"every_learner_steps": 10**6},
        stop={"learner_steps": 400},
    )
    view = Refuelling()
    supervisor = supervisor_for(config, tmp_path / "run", view, HostedRuntime())
    fading.fuel, fading.at = 1_000, ("step", "init")
    assert supervisor.run()["restarts"] == 3
    assert ["cannot be made" in line for line in view.lines] == [False, True, True]


@pytest.mark.parametrize("runtime", [InlineRuntime(), HostedRuntime()])
def test_a_first_evaluator_that_cannot_be_made_ends_the_run_with_what_was_learnt(
    tmp_path, fading, runtime
):
    supervisor = supervisor_for(tiny(env=FADING_ID), tmp_path / "run", Messages(), runtime)
    fading.copies = 0
    with pytest.raises(RunFailedError, match=r"cannot be made \(ConnectionError: no more"):
        supervisor.run()
    assert saved_counters(tmp_path / "run")["learner_steps"] >= 100


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


def test_a_resume_that_is_interrupted_while_it_warms_up_keeps_its_counters(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    before = saved_counters(run)

    class Interrupting(Messages):
        def update(self, report) -> None:
            if report["env_steps"] > before["env_steps"]:
                supervisor.request_stop("interrupted")

    over = {"learner": {"warmup_transitions": 1_900}, "stop": {"learner_steps": None}}
    supervisor = supervisor_that_resumes(run, Interrupting(), over)
    summary = supervisor.run()
    assert summary["stop_reason"] == "interrupted"
    after = saved_counters(run)
    assert after["learner_steps"] == before["learner_steps"], "still warming up"
    assert after["env_steps"] == summary["env_steps"] > before["env_steps"]
    assert after["wall_s"] > before["wall_s"]


def test_nothing_is_saved_again_where_nothing_was_done(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    (path,) = (run / "checkpoints").glob("*-step-*")
    before = (path / "manifest.json").stat().st_mtime_ns
    supervisor = supervisor_that_resumes(run)
    supervisor.request_stop("interrupted")
    supervisor.run()
    assert list((run / "checkpoints").glob("*-step-*")) == [path]
    assert (path / "manifest.json").stat().st_mtime_ns == before


OTHER_ENV = {
    "id": "Acrobot-v1", "kwargs": {"sutton_barto_reward": True}, "observation": "pixels",
    "render_width": 300, "render_height": 200, "crop": (0.0, 0.2, 1.0, 0.8), "invert": True,
    "grey": False, "width": 40, "height": 42, "stack": 2, "reward_clip": 1.0,
    "life_loss_ends": True, "sticky_actions": 0.0, "frame_skip": 2, "noop_max": 0,
    "max_episode_frames": 1_000,
}  # fmt: skip


def checkpoint_of(config):
    state = {
        "counters": {}, "learner": {"learner_steps": 1, "version": 0, "target_syncs": 0},
        "score": None, "best_score": None, "shards": 0, "incarnation": 1,
        "limiter": RateLimiter(4.0, 10, 100.0, 1, 1).state(),
        "format": FORMAT, "config": json.loads(config.model_dump_json()),
    }  # fmt: skip
    return Checkpoint("x", "000001-step-00000001", {"learner": {}}, state, {})


@pytest.mark.parametrize("key", ["counters", "learner", "shards", "limiter", "config", "format"])
def test_a_checkpoint_that_lacks_something_is_of_another_version(key):
    checkpoint = checkpoint_of(Config())
    del checkpoint.state[key]
    with pytest.raises(UserError, match="x/000001-step-00000001: is of another version of raydqn"):
        check_restorable(checkpoint, Config())
    older = checkpoint_of(Config())
    older.state["format"] = FORMAT - 1
    with pytest.raises(UserError, match="another version"):
        check_restorable(older, Config())


@pytest.mark.parametrize("key", EnvConfig.model_fields)
def test_a_checkpoint_is_of_the_environment_in_all_that_makes_the_game_and_its_picture(key):
    config = build_config({"env": {key: OTHER_ENV[key]}})
    check_restorable(checkpoint_of(config), config)
    shapes_learning_only = key in ("reward_clip", "life_loss_ends")
    for one, other in ((config, Config()), (Config(), config)):
        if shapes_learning_only:
            check_restorable(checkpoint_of(one), other)
        else:
            with pytest.raises(UserError, match=rf"env\.{key}=.*another environment"):
                check_restorable(checkpoint_of(one), other)


def test_a_key_that_a_checkpoint_does_not_know_yet_had_its_default():
    checkpoint = checkpoint_of(Config())
    del checkpoint.state["config"]["env"]["noop_max"]
    del checkpoint.state["config"]["network"]["dueling"]
    check_restorable(checkpoint, Config())
    with pytest.raises(UserError, match=r"env\.noop_max=0: .*made with 30"):
        check_restorable(checkpoint, build_config({"env": {"noop_max": 0}}))


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
    lives = [r for r in returns if len(r) >= 6]  # fewer may be alike by chance
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
    assert checkpoints_in(tmp_path / "run").newest()


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


# --- a part that hangs --------------------------------------------------------------------------


class Never:
    """An answer that does not come."""

    test_is_over = threading.Event()

    def result(self):
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("to wait for it would be to hang")
        self.test_is_over.wait()
        raise RemoteDiedError("part", "the test is over")

    def done(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def _nobody_waits_for_ever():
    Never.test_is_over.clear()
    yield
    Never.test_is_over.set()


class SignOfLife:
    """Comes as soon as the part is not silent."""

    def __init__(self, runtime, handle) -> None:
        self.runtime, self.handle = runtime, handle

    def result(self):
        return InlineRuntime.ping(
            self.runtime, getattr(self.handle, "handle", self.handle)
        ).result()

    def done(self) -> bool:
        return self.runtime.silent not in ("all", self.handle)


class SideBySide(InlineRuntime):
    """As on Ray: an answer may be long in coming."""

    parallel = True
    silent = "nobody"

    def spawn(self, cls, *args, part, incarnation, public_name=None):
        return HostedHandle(lambda: cls(*args), part_name(part, incarnation))

    def ping(self, handle):
        return SignOfLife(self, handle)

    def wait(self, futures, timeout_s):
        ready = [future for future in futures if future.done()]
        if not ready:
            time.sleep(min(timeout_s, 0.01))
        return ready


class Hanging:
    """A handle whose part stops answering at some time."""

    def __init__(self, handle, after=0, methods=None) -> None:
        self.handle, self.left, self.methods = handle, after, methods
        self.asked: list[str] = []

    def call(self, method, *args):
        self.asked.append(method)
        if self.methods is None or method in self.methods:
            self.left -= 1
        return Never() if self.left < 0 else self.handle.call(method, *args)

    def share(self, value):
        return self.handle.share(value)


def stalling(path, view=None, **over):
    learner = {"stall_timeout_s": 0.4} | over.pop("learner", {})
    config = tiny(learner=learner, evaluation={"every_learner_steps": 10_000}, **over)
    return supervisor_for(config, path, view, SideBySide())


def checkpoints_of(supervisor):
    return supervisor._folder.checkpoints.names()


def test_a_run_in_which_nothing_moves_stops_and_says_who_waits_and_who_does_not_answer(tmp_path):
    supervisor = stalling(tmp_path / "run")
    slot = supervisor._pool.slots[0]
    slot.handle = Hanging(slot.handle, after=30)
    with pytest.raises(RunFailedError) as caught:
        supervisor.run()
    said = str(caught.value)
    assert re.fullmatch(
        r"no transition was inserted and no sample drawn for 0\.4 s: learner waits for actors: "
        r"\d\.\d\d samples per insert, 4 wanted; without an answer: actor-0 for \d s; if their "
        r"work takes that long, raise learner\.stall_timeout_s=0\.4; go on from the last "
        r"checkpoint with: raydqn resume \S+",
        said,
    )
    saved = saved_counters(tmp_path / "run")
    assert saved["learner_steps"] == supervisor._counters.learner_steps > 0


def test_a_learner_that_hangs_is_named_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.1)
    view = Messages()
    supervisor = stalling(tmp_path / "run", view)
    supervisor._learner.handle = Hanging(supervisor._learner.handle, after=5)
    with pytest.raises(RunFailedError, match=r"actors wait for learner.*: learner for \d s; if"):
        supervisor.run()
    assert any("learner did not answer within 0.1 s: not saved" in line for line in view.lines)
    assert not checkpoints_of(supervisor)


def test_a_shard_that_hangs_is_found_out_for_those_who_wait_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.1)
    monkeypatch.setattr("deploy.supervisor.loop.PING_S", 0.1)
    supervisor = stalling(tmp_path / "run", replay={"shards": 3})
    supervisor._learner.handle = Hanging(supervisor._learner.handle, after=5)
    supervisor._program.runtime.silent = supervisor._shards[1].handle
    with pytest.raises(RunFailedError, match=r"without an answer: shard-1, learner for \d s; if"):
        supervisor.run()


def test_a_learner_that_hangs_over_a_checkpoint_does_not_hold_up_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.1)
    supervisor = stalling(tmp_path / "run", checkpoint={"every_s": None, "every_learner_steps": 20})
    hanging = Hanging(supervisor._learner.handle, after=1, methods={"state"})
    supervisor._learner.handle = hanging
    call = hanging.call
    # Whatever comes after a call that hangs is not answered either.
    hanging.call = lambda *a: Never() if hanging.left < 0 else call(*a)
    with pytest.raises(RunFailedError, match=r"without an answer: learner for"):
        supervisor.run()
    assert len(checkpoints_of(supervisor)) == 1
    assert hanging.asked.count("state") == 2, "one at a time"


def test_a_checkpoint_is_written_when_the_learners_state_comes(tmp_path):
    class Late:
        def __init__(self, answer) -> None:
            self.answer, self.from_s = answer, time.monotonic() + 0.3

        def result(self):
            time.sleep(max(0.0, self.from_s - time.monotonic()))
            went_on.append(supervisor._counters.learner_steps)
            return self.answer.result()

        def done(self) -> bool:
            return time.monotonic() > self.from_s

    supervisor = stalling(
        tmp_path / "run",
        learner={"stall_timeout_s": None},
        stop={"learner_steps": 1_500},
        checkpoint={"every_learner_steps": 20, "every_s": None, "keep": 100},
    )
    learner = supervisor._learner.handle
    call, asked, went_on = learner.call, [], []

    def late(method, *args):
        answer = call(method, *args)
        if method != "state" or supervisor._counters.learner_steps >= 1_500:
            return answer
        asked.append(wire.decode(answer.result())[1]["learner_steps"])
        return Late(answer)

    learner.call = late
    supervisor.run()
    saved = [int(name.rpartition("-")[2]) for name in checkpoints_of(supervisor)]
    assert len(asked) >= 2
    assert set(saved) - {1_500} <= set(asked), "named after the step that the state is of"
    assert len(saved) >= len(asked)
    assert went_on[0] > asked[0], "the loop goes on meanwhile"


def test_a_clean_stop_does_not_wait_for_ever_for_a_learner_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.1)
    supervisor = stalling(tmp_path / "run")

    class Interrupting(Hanging):
        def call(self, method, *args):
            if self.left <= 0:
                supervisor.request_stop("interrupted")
            return super().call(method, *args)

    supervisor._learner.handle = Interrupting(supervisor._learner.handle, after=3)
    with pytest.raises(RunFailedError, match="without an answer: learner for"):
        supervisor.run()


def test_a_signal_does_not_wait_for_ever_either_where_no_stall_timeout_is_set(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("deploy.supervisor.loop.HURRY_S", 0.2)
    monkeypatch.setattr("deploy.supervisor.loop.SAVE_S", 0.2)
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.1)
    supervisor = stalling(tmp_path / "run", learner={"stall_timeout_s": None})
    supervisor._learner.handle = Hanging(supervisor._learner.handle, after=3)

    class Interrupting(Messages):
        def update(self, report) -> None:
            if supervisor._learner.handle.left < 0:
                supervisor.request_stop("terminated")

    supervisor._view = Interrupting()
    with pytest.raises(RunFailedError, match=r"the last checkpoint was not written within 0\.2 s"):
        supervisor.run()


def test_the_time_until_all_parts_run_does_not_count(tmp_path):
    supervisor = stalling(tmp_path / "run")
    supervisor._program.runtime.silent = "all"
    for slot in supervisor._pool.slots:
        slot.handle = Hanging(slot.handle)
    begun = time.monotonic()

    class Starting(Messages):
        def update(self, report) -> None:
            if time.monotonic() - begun > 1.2:  # three times as long as nothing may move
                supervisor._program.runtime.silent = "nobody"

    supervisor._view = Starting()
    with pytest.raises(RunFailedError, match=r"learner waits for \d s: 0 of 100 first transitions"):
        supervisor.run()
    assert time.monotonic() - begun > 1.2 + 0.3


def test_an_actor_that_never_comes_up_does_not_hide_a_stall(tmp_path):
    supervisor = stalling(tmp_path / "run", actors={"count": 2, "envs": 4, "collect_steps": 8})
    first, second = supervisor._pool.slots
    supervisor._program.runtime.silent = second.handle
    first.handle, second.handle = Hanging(first.handle, after=30), Hanging(second.handle)
    with pytest.raises(RunFailedError, match=r"actor-1 for \d s, actor-0 for \d s; if"):
        supervisor.run()


def test_a_long_evaluation_in_one_process_is_no_stall(tmp_path, endless):
    summary = train(
        tiny(
            env=endless,
            learner={"stall_timeout_s": 0.2},  # less than a slice of an evaluation
            evaluation={"every_learner_steps": 10},
            stop={"wall_s": 4.0},
        ),
        tmp_path / "run",
    )
    assert summary["stop_reason"] == "wall_s"


def test_a_part_that_was_replaced_has_the_whole_time_anew(tmp_path):
    supervisor = stalling(tmp_path / "run")
    slot = supervisor._pool.slots[0]
    slot.handle = Hanging(slot.handle, after=30)
    hung = []

    class Replacing(Messages):
        def update(self, report) -> None:
            if slot.call is not None and time.monotonic() - slot.called_s > 0.3 and not hung:
                hung.append(time.monotonic())
                slot.call = Failed(OSError("the simulator is gone"))

    supervisor._view = Replacing()
    slot.spawn = lambda incarnation: Hanging(slot.handle)
    with pytest.raises(RunFailedError, match="without an answer: actor-0"):
        supervisor.run()
    assert time.monotonic() - hung[0] > 0.4


def test_without_a_stall_timeout_nothing_is_watched_and_many_parts_are_counted(tmp_path):
    count = NAMED_PARTS + 3
    supervisor = stalling(
        tmp_path / "run",
        learner={"stall_timeout_s": None},
        actors={"count": count, "envs": 1},
        stop={"wall_s": 1.5},
    )
    for slot in supervisor._pool.slots:
        slot.begin("collect", 1, 0)
    supervisor._tend(time.monotonic(), supervisor._players)  # all of them are up
    supervisor._stop_if_stalled(time.monotonic() + 1e9)
    supervisor._config = tiny(learner={"stall_timeout_s": 5.0})
    supervisor._limiter._moved_s -= 1e6
    with pytest.raises(RunFailedError, match=r"actor-4 for 1,000 s, 3 more; if") as caught:
        supervisor._stop_if_stalled(time.monotonic() + 1_000)
    assert "actor-5" not in str(caught.value)


# --- parts that die -----------------------------------------------------------------------------


class Crashing(Messages):
    """Has parts die, once, when so many learner steps are done; looks when one was replaced."""

    def __init__(self, titles, after_steps=150) -> None:
        super().__init__()
        self.titles, self.after_steps = titles, after_steps
        self.supervisor = None
        self.looked = {}  # by title
        self.version = -1

    def slots(self):
        one = self.supervisor
        slots = [one._weight_store, *one._shards, one._learner, *one._pool.slots]
        return {slot.title: slot for slot in slots}

    def update(self, report) -> None:
        if report["learner_steps"] >= self.after_steps and self.titles:
            titles, self.titles = self.titles, []
            self.version = self.supervisor._records.version
            for title in titles:
                self.supervisor._program.runtime.crash(self.slots()[title].handle)

    def notify(self, text, level=20, detail="") -> None:
        super().notify(text)
        title, found, _ = text.partition(" was replaced")
        if found and title.startswith("shard"):
            self.looked[title] = self.slots()[title].handle.call("summary").result()
        elif found:
            self.looked[title] = self.supervisor._counters.learner_steps


def run_with_deaths(path, titles, runtime=None, every=40, **over):
    """A run to its end in which these parts died: (its supervisor, its view, its summary)."""
    config = tiny(
        **{"stop": {"learner_steps": 400}, "replay": {"shards": 2}} | over,
        checkpoint={"every_learner_steps": every, "every_s": None, "keep": 100},
        supervision={"hung_after_s": 20.0},
    )
    view = Crashing(titles)
    view.supervisor = supervisor_for(config, path, view, runtime)
    return view.supervisor, view, view.supervisor.run()


ALL = ["variables", "shard-0", "shard-1", "learner", "actor-0"]


@pytest.mark.parametrize("runtime", [InlineRuntime, SideBySide])
@pytest.mark.parametrize("titles", [*[[title] for title in ALL], ALL], ids=lambda t: "+".join(t))
def test_whatever_dies_is_replaced_and_the_run_ends_as_planned(tmp_path, titles, runtime):
    supervisor, view, summary = run_with_deaths(tmp_path / "run", titles, runtime())
    assert summary["stop_reason"] == "learner_steps"
    assert summary["learner_steps"] == 400
    assert summary["restarts"] == len(titles)
    for title in titles:
        (line,) = [line for line in view.lines if line.startswith(f"{title} was replaced")]
        assert re.fullmatch(rf"{title} was replaced: {title}-\d+ died \(it was ended\)", line)
    # Nobody is left behind with the handle of one that is gone.
    report = supervisor._learner.handle.call("train", 1).result()
    assert report.unreachable == []
    assert [shard.shard for shard in report.replay] == [0, 1]
    report = supervisor._program.spawn_actor(0, 9_999)._target.collect(1, 0)
    assert report.unreachable == []
    saved = supervisor._folder.checkpoints.newest().state
    assert saved["counters"]["restarts"] == len(titles)


def test_a_learner_that_died_goes_on_from_the_newest_checkpoint(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", ["learner"], every=70)
    names = supervisor._folder.checkpoints.names()
    steps = [int(name.rpartition("-")[2]) for name in names]
    assert view.looked["learner"] == max(step for step in steps if step <= 150)
    assert steps == sorted(set(steps)), "what was done again was not saved twice"
    assert steps[-1] == 400


def test_a_learner_that_died_before_the_first_checkpoint_begins_anew(tmp_path):
    supervisor, view, summary = run_with_deaths(tmp_path / "run", ["learner"], every=None)
    assert view.looked["learner"] == 0
    assert summary["learner_steps"] == 400
    assert supervisor._counters.samples > 400 * 32, "what the dead one has learnt counts as drawn"
    assert supervisor._next_evaluation > 400


def test_a_shard_that_died_comes_back_with_what_the_newest_checkpoint_holds_of_it(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", ["shard-0"])
    back = view.looked["shard-0"]
    assert back.shard == 0
    assert back.size > 0
    now = supervisor._shards[0].handle.call("summary").result()
    assert now.inserted > back.inserted, "it is written to"
    assert now.sampled > back.sampled, "and drawn from"


def test_a_shard_that_died_before_the_first_checkpoint_comes_back_empty(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", ["shard-1"], every=None)
    assert view.looked["shard-1"].size == 0
    assert supervisor._shards[1].handle.call("summary").result().size > 0


def test_a_memory_that_is_lost_as_a_whole_is_filled_anew_and_the_run_ends_as_planned(tmp_path):
    titles = ["shard-0", "shard-1"]
    supervisor, view, summary = run_with_deaths(tmp_path / "run", titles, every=None)
    assert summary["learner_steps"] == 400
    assert [view.looked[title].size for title in titles] == [0, 0]
    assert all(slot.handle.call("summary").result().size > 0 for slot in supervisor._shards)


def test_versions_of_the_weights_go_up_when_those_who_held_them_died(tmp_path):
    supervisor, view, _ = run_with_deaths(tmp_path / "run", ["variables", "learner"])
    assert supervisor._records.version > view.version + VERSIONS_BESIDE
    told = [r["weights_version"] for r in read_metrics(tmp_path / "run") if r["weights_version"]]
    assert told == sorted(told)
    assert supervisor._pool.slots[0].handle.call("collect", 1, 0).result().version > view.version


@pytest.mark.parametrize("title", ["learner", "shard-0", "variables"])
def test_a_part_that_dies_whenever_it_is_made_ends_the_run(tmp_path, monkeypatch, title):
    monkeypatch.setattr("deploy.supervisor.loop.LAST_STATE_S", 0.1)
    supervisor = supervisor_for(tiny(), tmp_path / "run", view := Crashing([title]), SideBySide())
    view.supervisor = supervisor

    def stillborn(*args):
        handle = OneAtATime(None, "stillborn")
        handle.end()
        return handle

    monkeypatch.setattr(
        supervisor._program,
        f"spawn_{'weight_store' if title == 'variables' else title.partition('-')[0]}",
        stillborn,
    )
    view.notify = view.lines.append
    with pytest.raises(RunFailedError, match=rf"{title} failed 4 times in a row: stillborn died"):
        supervisor.run()
    assert sum("was replaced" in line for line in view.lines) == 3


def test_a_shard_whose_part_of_all_checkpoints_is_damaged_begins_empty(tmp_path):
    class Damaging(Crashing):
        def update(self, report) -> None:
            files = list((tmp_path / "run").glob("checkpoints/*-step-*/shard-1.rdqn"))
            if self.titles and files and report["learner_steps"] >= self.after_steps:
                for path in files:
                    data = bytearray(path.read_bytes())
                    data[len(data) // 2] ^= 255
                    path.write_bytes(data)
                super().update(report)

        def notify(self, text, level=20, detail="") -> None:
            self.lines.append(text)

    config = tiny(
        stop={"learner_steps": 600},
        replay={"shards": 2},
        checkpoint={"every_learner_steps": 100, "every_s": None},
    )
    view = Damaging(["shard-1"])
    view.supervisor = supervisor_for(config, tmp_path / "run", view, HostedRuntime())
    summary = view.supervisor.run()
    assert summary["learner_steps"] == 600
    lines = [line for line in view.lines if "going on without it" in line]
    assert lines
    assert all(re.search(r"shard-1\.rdqn: damaged", line) for line in lines)
    assert summary["restarts"] == 1 + len(lines), "one that died, and those that could not be made"


# --- a part that shows no sign of life ----------------------------------------------------------


@pytest.mark.parametrize("title", ["shard-0", "learner", "actor-0"])
def test_a_part_without_a_sign_of_life_is_replaced(tmp_path, title):
    config = tiny(
        stop={"learner_steps": 2_000},
        supervision={"hung_after_s": 0.3},
        learner={"stall_timeout_s": 20.0},
        evaluation={"every_learner_steps": 10**6},
    )
    view = Crashing([title])
    view.supervisor = supervisor = supervisor_for(config, tmp_path / "run", view, SideBySide())

    def hang(handle):
        slot = view.slots()[title]
        supervisor._program.runtime.silent = slot.handle = Hanging(slot.handle)
        if title == "learner":  # what is under way is not answered either
            supervisor._training = type(supervisor._training)(
                dataclasses.replace(t, call=Never()) for t in supervisor._training
            )

    supervisor._program.runtime.crash = hang
    assert supervisor.run()["restarts"] == 1
    (line,) = [line for line in view.lines if "was replaced" in line]
    assert re.match(rf"{title} was replaced: {title} showed no sign of life for \d s", line)

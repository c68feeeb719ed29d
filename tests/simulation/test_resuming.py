"""Resuming a run: in its folder, from its storage, from an older checkpoint, past damage."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import deploy.launch.runtimes
import deploy.program
from common.checkpoint import CheckpointStore, read_verified
from common.config_toml import merge
from common.errors import UserError
from common.storage import open_storage
from deploy.launch.presets import make_config
from deploy.launch.resume import fetch_run, resume
from deploy.launch.run import ATTEMPT_STRIDE
from deploy.launch.train import train
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import read_metrics
from support.fakes import SideBySide, tiny
from support.program import TINY


def config_of(**over):
    quiet = {
        "evaluation": {"every_learner_steps": 10**6},
        "checkpoint": {"every_learner_steps": 10, "every_s": None},
        "stop": {"learner_steps": 45},
        "learner": {"samples_per_insert": 8.0, "train_steps": 5},
    }
    return make_config("cartpole", overrides=merge(TINY, merge(quiet, over)))


def store_at(path):
    return CheckpointStore(open_storage(str(path)), 3)


def unharmed(store):
    """Names of checkpoints of which every file is what was written."""
    for name in store.names():
        files = store.load(name).files
        for path in files:
            read_verified(store.storage, path, files)
    return store.names()


@pytest.fixture
def as_on_ray(monkeypatch):
    """Runs of `inline=False` take place in this process; the incarnations that they begin with."""
    begun, build = [], deploy.program.build

    @contextmanager
    def runtime(*_):
        yield SideBySide()

    def noted(config, spec, runtime, incarnation=0, *more):
        begun.append(incarnation)
        return build(config, spec, runtime, incarnation, *more)

    monkeypatch.setattr(deploy.launch.runtimes, "open_runtime", runtime)
    monkeypatch.setattr(deploy.program, "build", noted)
    return begun


# --- attempts ------------------------------------------------------------------------------------


def test_a_run_whose_folder_is_gone_does_not_repeat_its_first_attempt(
    tmp_path, monkeypatch, as_on_ray
):
    monkeypatch.chdir(tmp_path)
    store = store_at(tmp_path / "store" / "run")
    config = config_of(checkpoint={"storage": str(tmp_path / "store")}, replay={"shards": 2})
    train(config, tmp_path / "run", inline=False)
    before = unharmed(store)
    for attempt in (1, 2):
        shutil.rmtree(tmp_path / "run" if attempt == 1 else tmp_path / "runs")
        path = fetch_run(f"file://{tmp_path}/store/run")
        over = {"replay": {"shards": 2 + attempt}, "stop": {"learner_steps": 45 + 15 * attempt}}
        resume(path, over, inline=False)
        assert (path / "lives").read_text() == str(attempt + 1)
    assert as_on_ray == [0, ATTEMPT_STRIDE, 2 * ATTEMPT_STRIDE]
    assert unharmed(store) != before


@pytest.mark.parametrize(
    ("saved", "attempt"),
    [(1, 1), (ATTEMPT_STRIDE, 1), (ATTEMPT_STRIDE + 1, 2), (5 * ATTEMPT_STRIDE, 5)],
)
def test_an_attempt_begins_above_the_incarnations_of_the_checkpoint(
    tmp_path, as_on_ray, saved, attempt
):
    run = tmp_path / "run"
    train(config_of(stop={"learner_steps": 10}), run)  # in one process it counts otherwise
    store = RunFolder.open(run).checkpoints
    found = store.newest()
    store.save(10, found.tensors, {**found.state, "shards": 0, "incarnation": saved})
    as_on_ray.clear()
    resume(run, {"stop": {"learner_steps": 20}}, inline=False)
    assert as_on_ray == [attempt * ATTEMPT_STRIDE]


# --- two runs in one place -----------------------------------------------------------------------


def test_a_new_run_is_refused_where_another_of_its_name_has_its_checkpoints(tmp_path):
    place = tmp_path / "store"
    config = config_of(checkpoint={"storage": str(place)}, stop={"learner_steps": 10})
    train(config, tmp_path / "a" / "run")
    before = unharmed(store_at(place / "run"))
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "b" / "run")
    assert str(caught.value) == (
        f"checkpoint.storage: {place}/run holds checkpoints of another run already; name another "
        "--run-dir or checkpoint.storage, or resume that run"
    )
    assert not (tmp_path / "b").exists()
    assert unharmed(store_at(place / "run")) == before
    train(config, tmp_path / "b" / "other")
    assert unharmed(store_at(place / "other"))


def test_a_storage_that_cannot_be_read_is_told_before_anything_begins(tmp_path):
    (tmp_path / "store").write_text("a file")
    config = config_of(checkpoint={"storage": str(tmp_path / "store")})
    with pytest.raises(UserError, match=r"checkpoint\.storage: .*store/run cannot be read"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_storage_is_found_from_another_folder_too(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train(config_of(checkpoint={"storage": "store"}, stop={"learner_steps": 10}), Path("run"))
    monkeypatch.chdir(tmp_path)
    summary = resume(Path("here/run"), {"stop": {"learner_steps": 20}})
    assert summary["learner_steps"] == 20
    assert unharmed(store_at(tmp_path / "here" / "store" / "run"))


# --- branches and damage -------------------------------------------------------------------------


def test_a_resume_from_an_older_checkpoint_leaves_the_newer_ones_whole(tmp_path):
    run = tmp_path / "run"
    train(config_of(stop={"learner_steps": 65}), run)
    store = store_at(run / "checkpoints")
    oldest, *newer = unharmed(store)
    steps = store.load(oldest).state["learner"]["learner_steps"] + 11
    over = {"learner": {"samples_per_insert": 2.0}, "stop": {"learner_steps": steps}}
    resume(run, over, checkpoint_name=oldest)
    assert newer[-1] in unharmed(store)
    assert len(set(unharmed(store)) - {oldest, *newer}) >= 1


def test_a_bad_segment_that_all_checkpoints_share_costs_the_memory_and_not_the_run(tmp_path):
    run = tmp_path / "run"
    often = {"every_learner_steps": 30}
    train(config_of(checkpoint=often, stop={"learner_steps": 125}), run)
    store = store_at(run / "checkpoints")
    files = [set(store.load(name).files) for name in store.names()]
    shared = sorted(path for path in set.intersection(*files) if path.startswith("frames/"))
    path = run / "checkpoints" / shared[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    longer = {"stop": {"learner_steps": 150}}
    for content, said in ((data, "damaged"), (data[:-1], "cut off")):
        path.write_bytes(content)
        for name in (None, *store.names()):
            with pytest.raises(UserError) as caught:
                resume(run, longer, checkpoint_name=name)
            assert re.search(
                rf"{shared[0]}: {said}.*; to continue with an empty replay memory: "
                r"--checkpoint\.replay false$",
                str(caught.value),
            )
    summary = resume(run, {**longer, "checkpoint": {"replay": False}})
    assert summary["learner_steps"] == 150
    newest = store.newest()
    assert newest.state["shards"] == 0
    # And then with a memory again.
    over = {"stop": {"learner_steps": 185}, "checkpoint": {"replay": True}}
    assert resume(run, over)["learner_steps"] == 185
    assert store.newest().state["shards"] == 1


def test_a_bad_file_of_one_checkpoint_costs_that_one(tmp_path):
    run = tmp_path / "run"
    train(config_of(), run)
    *_, before, newest = store_at(run / "checkpoints").names()
    (run / "checkpoints" / newest / "shard-0.rdqn").write_bytes(b"")
    for name in (None, newest):
        with pytest.raises(UserError, match=f"the one before it: --checkpoint {before}$"):
            resume(run, {"stop": {"learner_steps": 55}}, checkpoint_name=name)
    with pytest.raises(UserError, match=r"000099-step-00000001: not a checkpoint"):
        resume(run, {"stop": {"learner_steps": 55}}, checkpoint_name="000099-step-00000001")


# --- what a resume continues --------------------------------------------------------------------


def test_every_attempt_of_a_run_has_random_streams_of_its_own(tmp_path):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 20}), run)
    returns = []
    for steps in (60, 100):
        resume(run, {"stop": {"learner_steps": steps}})
    for report in read_metrics(run):
        returns.append([ret for ret, *_ in report["episodes"]])
    long = [r for r in returns if len(r) >= 6]  # fewer may be alike by chance
    assert (run / "lives").read_text() == "3"
    assert len({tuple(r[:6]) for r in long}) == len(long)


def test_a_resume_records_the_configuration_that_it_uses(tmp_path):
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

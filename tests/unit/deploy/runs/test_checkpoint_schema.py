"""The state of a checkpoint: any content is either restorable or an error of one line."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from common.checkpoint import Checkpoint, CheckpointStore
from common.config import Config
from common.errors import CheckpointError, UserError
from common.storage import open_storage
from deploy.launch.resume import fetch_run
from deploy.runs.checkpoint_schema import (
    CountersState,
    check_restorable,
    check_state,
    learner_state,
    parse_state,
    shard_file,
    shard_restore,
)
from deploy.runs.folder import RunFolder
from deploy.runs.statistics import Counters, RunStatistics
from replay_server.rate_limiter import RateLimiter
from support.run_states import make_state

NAME = "000001-step-00000060"


def make_checkpoint(state, tensors=("learner",)):
    entry = {"bytes": 1, "sha256": ""}
    files = {shard_file(NAME, index): entry for index in range(2)}
    arrays = {"policy.w": np.zeros(1, np.float32)}
    return Checkpoint("x", NAME, dict.fromkeys(tensors, arrays), state, files)


def restore_all_of(checkpoint):
    """All that a resume makes of a state."""
    state = parse_state(checkpoint)
    RunStatistics(Config(), 0.0).restore(state)
    limiter = RateLimiter(4.0, 10, 100.0, 1, 1)
    limiter.restore(state.limiter.model_dump(), 5)
    assert limiter.explain()
    assert learner_state(checkpoint).nbytes
    shard_restore(checkpoint, 0, 2)
    check_restorable(checkpoint, Config())


VALUES = [
    *(None, -1, 0, 2.5, "x", "a\nb", [], {}, [1], True, 10**30, 1 << 60, float("nan")),
    *(float("inf"), [[[]]], {"a": None}),
]


def paths(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def refusal(act, checkpoint):
    try:
        act(checkpoint)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("path", list(paths(make_state())), ids=".".join)
def test_any_value_may_be_anything(path):
    def changed(change):
        state = make_state()
        part = state
        for key in path[:-1]:
            part = part[key]
        change(part)
        return make_checkpoint(state)

    changes = [lambda part, v=value: part.update({path[-1]: copy.deepcopy(v)}) for value in VALUES]
    for change in [*changes, lambda part: part.pop(path[-1])]:
        checkpoint = changed(change)
        said = refusal(check_state, checkpoint)
        if said is not None:
            assert "\n" not in said
            assert len(said) < 400
            assert said.startswith(f"x/{NAME}: ")
        else:  # it may be of another environment or network
            assert refusal(restore_all_of, checkpoint) is None or path[0] == "config"


def test_the_state_of_a_run_is_accepted_and_newer_keys_are_ignored():
    state = make_state()
    check_state(make_checkpoint(state))
    state["of_tomorrow"] = state["counters"]["of_tomorrow"] = 1
    del state["counters"]["dropped"]  # newer than the checkpoint
    del state["ran_on"]
    checkpoint = make_checkpoint(state)
    check_state(checkpoint)
    restore_all_of(checkpoint)


def test_every_counter_is_known_here():
    assert set(CountersState.model_fields) == {f.name for f in dataclasses.fields(Counters)}


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (3, "shards=3: the checkpoint has 2 files in all"),
        (10**12, "shards=1000000000000: the checkpoint has 2 files in all"),
    ],
)
def test_missing_files_of_shards_are_named(shards, said):
    with pytest.raises(CheckpointError, match=said):
        check_state(make_checkpoint({**make_state(), "shards": shards}))
    state = make_checkpoint(make_state())
    del state.files[shard_file(NAME, 1)]
    state.files["frames/x"] = {}
    with pytest.raises(CheckpointError, match=f"shards=2: there is no {NAME}/shard-1.rdqn"):
        check_state(state)


def test_another_version_and_a_checkpoint_without_a_learner_are_refused():
    for checkpoint in (
        make_checkpoint({**make_state(), "format": 99}),
        make_checkpoint({}),
        make_checkpoint(make_state(), tensors=()),
    ):
        with pytest.raises(CheckpointError, match="is of another version of raydqn"):
            check_state(checkpoint)


def test_without_checkpoint_replay_no_shard_restores_anything():
    checkpoint = make_checkpoint(make_state())
    assert shard_restore(checkpoint, 0, 2) is not None
    assert shard_restore(dataclasses.replace(checkpoint, replay=False), 0, 2) is None


# --- a run whose machine is gone -----------------------------------------------------------------


def save(folder, state, tensors=("learner",)):
    store = CheckpointStore(open_storage(str(folder)), 3)
    arrays = {"policy.w": np.zeros(1, np.float32)}
    return store.save(60, dict.fromkeys(tensors, arrays), state)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_made_of_the_newest_checkpoint(here):
    save(here / "store" / "mine", {**make_state(), "shards": 0})
    path = fetch_run(f"file://{here}/store/mine")
    folder = RunFolder.open(path)
    assert folder.config.checkpoint.storage == f"file://{here}/store"
    assert folder.checkpoints.storage.url == f"{here}/store/mine"
    assert fetch_run(f"file://{here}/store/mine/") == path, "the one that is there by now"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.clear(),
        lambda state: state.update(config=3),
        lambda state: state.update(config={"env": []}),
        lambda state: state["config"]["env"].update(kwargs={"a": None}),
    ],
)
def test_a_hostile_checkpoint_makes_no_folder_and_is_one_line(here, change):
    state = {**make_state(), "shards": 0}
    change(state)
    save(here / "store" / "mine", state)
    with pytest.raises(UserError) as caught:
        fetch_run(f"file://{here}/store/mine")
    assert "\n" not in str(caught.value)
    assert not (here / "runs").exists()


def test_a_folder_of_that_name_with_other_checkpoints_is_not_taken_for_it(here):
    save(here / "store" / "mine", {**make_state(), "shards": 0})
    RunFolder.create(here / "runs" / "mine", Config())
    with pytest.raises(
        UserError, match=r"runs/mine: is of a run whose .* in .*/runs/mine/check.*not"
    ):
        fetch_run(f"file://{here}/store/mine")

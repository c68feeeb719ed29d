"""`network.init`: a run that starts with the weights of another."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actors.environments import environment_spec
from common.errors import UserError
from common.weights import unpack_weights
from deploy.launch.initial_weights import initial_weights
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs.folder import BEST
from support.fakes import tiny
from support.program import checkpoints_in


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run with best weights."""
    run = tmp_path_factory.mktemp("other") / "run"
    train(tiny(stop={"learner_steps": 60}, evaluation={"every_learner_steps": 30}), run)
    return run


def policy_in(state) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("policy."): array
        for name, array in state.items()
        if name.startswith("policy.")
    }


@pytest.mark.parametrize("form", ["folder", "file", "checkpoint"])
def test_a_learner_begins_with_the_weights_of_a_run_or_a_file(tmp_path, other, form):
    best = load_file(other / BEST)
    places = {"folder": other, "file": other / BEST}
    if form == "checkpoint":
        newest = checkpoints_in(other).names()[-1]
        places[form] = other / "checkpoints" / newest / "learner.safetensors"
        best = policy_in(load_file(places[form]))
    config = tiny(network={"init": str(places[form])}, stop={"learner_steps": 1})
    weights, _ = unpack_weights(initial_weights(config, environment_spec(config.env)))
    assert weights.keys() == best.keys()
    for name, tensor in weights.items():
        assert np.array_equal(tensor.numpy(), best[name])
    # No update changes them before the first step; a rate of almost 0 keeps them through it.
    still = tiny(
        network={"init": str(places[form])},
        learner={"learning_rate": 1e-30},
        stop={"learner_steps": 10},
    )
    train(still, tmp_path / "run")
    learnt = policy_in(checkpoints_in(tmp_path / "run").newest().tensors["learner"])
    for name, array in learnt.items():
        assert np.allclose(array, best[name], atol=1e-7)


def test_a_resume_continues_with_its_own_weights(tmp_path, other, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.chdir(other.parent)
    train(tiny(network={"init": "run"}, stop={"learner_steps": 20}), run)
    monkeypatch.chdir(tmp_path)
    before = policy_in(checkpoints_in(run).newest().tensors["learner"])
    still = {"learner": {"learning_rate": 1e-30}, "stop": {"learner_steps": 30}}
    resume(run, still)
    after = policy_in(checkpoints_in(run).newest().tensors["learner"])
    # Adam's moments of the steps before still move the weights, as little as the rate lets them.
    assert all(np.allclose(after[name], before[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, other, value):
    tensors = load_file(other / BEST)
    name = sorted(tensors)[-1]
    tensors[name].flat[0] = value
    save_file(tensors, tmp_path / "bad.safetensors")
    config = tiny(network={"init": str(tmp_path / "bad.safetensors")})
    with pytest.raises(UserError, match=r"bad\.safetensors: contains NaN or infinity in .*" + name):
        initial_weights(config, environment_spec(config.env))


@pytest.mark.parametrize(
    ("init", "network", "says"),
    [
        ("nowhere", {}, "network.init=.*nowhere: there is no such file or run folder"),
        ("note.txt", {}, r"note\.txt: is no run folder and no \.safetensors file"),
        ("empty", {}, "empty: .*not a run folder"),
        ("run", {"hidden": [16]}, "is of another network or environment .*must be"),
        ("run", {"hidden": [32], "dueling": True}, "is of another network or environment"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_the_run(
    tmp_path, other, monkeypatch, init, network, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("no tensors")
    (tmp_path / "empty").mkdir()
    place = str(other) if init == "run" else init
    with pytest.raises(UserError, match=says):
        train(tiny(network={"init": place, **network}), tmp_path / "new")
    assert not (tmp_path / "new").exists()

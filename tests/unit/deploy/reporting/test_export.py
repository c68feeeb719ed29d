"""Exported policies: the same Q values in ONNX, TorchScript and safetensors, and a contract."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from actors.environments import environment_spec
from common.errors import UserError
from common.networks import make_network
from common.tensor_file import tensor_metadata
from common.types import EvaluationReport
from common.weights import pack_weights
from deploy.launch.initial_weights import initial_weights
from deploy.launch.presets import make_config
from deploy.runs.folder import RunFolder
from support.program import raydqn_here

NETWORKS = {
    "mlp": {},
    "minatar-cnn": {"kind": "minatar-cnn", "dueling": True, "layer_norm": True},
    "impala-cnn": {"kind": "impala-cnn", "spectral_norm": True, "noisy": True},
    "categorical": {"head": "categorical", "dueling": True},
    "quantile": {"head": "quantile", "quantiles": 5},
    "implicit-quantile": {"kind": "minatar-cnn", "head": "implicit-quantile"},
}


def make_run(path, **network):
    """A run folder of MinAtar with random best weights, and its network."""
    network = {"kind": "mlp", "hidden": (12, 8), "layer_norm": False, **network}
    config = make_config("minatar-breakout", overrides={"network": network})
    folder = RunFolder.create(path, config)
    spec = environment_spec(config.env)
    made = make_network(spec, config.network, seed=5).eval()
    report = EvaluationReport(
        version=1,
        learner_steps=70,
        score=3.0,
        returns=[3.0],
        lengths=[9],
        epsilon=0.0,
        wall_s=1.0,
        copies=[0],
        endings=["terminated"],
        weights=pack_weights(made.state_dict(), {"learner_steps": 70}),
    )
    folder.save_best(report)
    observation = np.random.default_rng(0).integers(2, size=(5, spec.stack, *spec.frame.shape))
    return made, observation.astype(spec.frame.dtype)


def exported(run, kind, *more):
    code, out, err = raydqn_here("export", str(run), "--format", kind, *more)
    assert (code, err) == (0, ""), err
    return out


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of the reader
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_values_in_onnx_and_torchscript(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export, onnxruntime")
    run = tmp_path / "run"
    network, observation = make_run(run, **NETWORKS[name])
    with torch.no_grad():
        expected = network(torch.from_numpy(observation)).numpy()
    exported(run, "onnx")
    session = onnxruntime.InferenceSession(run / "policy.onnx")
    (q,) = session.run(None, {"observation": observation})
    exported(run, "torchscript")
    extra = {"raydqn": ""}
    script = torch.jit.load(run / "policy.pt", _extra_files=extra)
    traced = script(torch.from_numpy(observation)).detach().numpy()
    assert session.get_outputs()[0].shape == ["batch", 3]
    for found in (q, traced):  # another batch size than that of the export
        assert np.abs(found - expected).max() < 1e-4
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    described = session.get_modelmeta().custom_metadata_map["raydqn"]
    assert json.loads(described) == json.loads(extra["raydqn"])
    assert json.loads(described)["env"]["id"] == "MinAtar/Breakout-v1"


def test_the_weights_alone_have_the_contract_too(tmp_path):
    run, file = tmp_path / "run", tmp_path / "own.safetensors"
    network, _ = make_run(run)
    out = exported(run, "safetensors", "--out", str(file), "--json")
    tensors = load_file(file)
    assert tensors.keys() == network.state_dict().keys()
    assert all(torch.equal(tensors[name], one) for name, one in network.state_dict().items())
    contract = json.loads(tensor_metadata(file.read_bytes())["raydqn"])
    told = json.loads(out)
    assert (told.pop("file"), told.pop("bytes")) == (str(file), file.stat().st_size)
    assert told == contract
    assert contract["input"]["shape"] == ["batch", 1, 4, 10, 10]
    assert contract["input"]["axes"][-3:] == ["channel", "row", "column"]
    assert contract["env"].keys() == {
        *("id", "kwargs", "wrappers", "observation", "stack", "action_mask"),
    }
    assert contract["output"]["shape"] == ["batch", 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--out policy.txt", "must end in .safetensors"),
        ("--out no/such/policy.safetensors", "there is no folder no/such"),
        ("--format pickle", "--format"),
        ("--out RUN/best.safetensors", "is in the folder of a run"),
        ("--out RUN/checkpoints/policy2.txt", "must end in .safetensors"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, options, words):
    make_run(tmp_path / "run")
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    options = options.replace("RUN", str(tmp_path / "run")).split()
    code, out, err = raydqn_here("export", str(tmp_path / "run"), *options)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


def test_what_onnx_cannot_express_is_refused_with_the_format_that_can(tmp_path):
    make_run(tmp_path / "run", kind="impala-cnn", pool=2)
    code, _, err = raydqn_here("export", str(tmp_path / "run"), "--format", "onnx")
    assert code == 2
    assert "network.pool=2" in err
    assert "use torchscript" in err
    exported(tmp_path / "run", "torchscript")


def test_a_run_that_does_not_exist_is_told_as_such(tmp_path):
    code, _, err = raydqn_here("export", str(tmp_path / "nope"))
    assert code == 2
    assert "--out" not in err
    assert not (tmp_path / "nope").exists()


def test_an_exported_policy_may_begin_a_run_of_the_same_head_only(tmp_path):
    make_run(tmp_path / "run", head="categorical")
    exported(tmp_path / "run", "safetensors")
    file = tmp_path / "run" / "policy.safetensors"
    network = {"kind": "mlp", "hidden": (12, 8), "layer_norm": False, "init": str(file)}

    def begun(**keys):
        config = make_config("minatar-breakout", overrides={"network": {**network, **keys}})
        return initial_weights(config, environment_spec(config.env))

    assert begun(head="categorical") is not None
    for keys, words in (
        ({"head": "quantile", "quantiles": 51}, "has network.head=categorical, and this run has q"),
        ({"head": "categorical", "value_max": 9.0}, "add --network.value-max 25"),
    ):
        with pytest.raises(UserError, match=words):
            begun(**keys)

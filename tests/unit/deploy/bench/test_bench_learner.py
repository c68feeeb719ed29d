"""`raydqn bench learner`: the measured step is the learner's, and its phases add up to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.handles import InlineHandle
from common.item import transition_item
from common.weights import WeightStore, unpack_weights
from deploy.bench import learner as bench
from deploy.bench.learner import PHASES, SPECS, LearnerBench, TimedLearner, bench_learner
from deploy.cli import main as cli
from learner.learner import Learner
from replay_server.messages import encode_chunk
from replay_server.server import ReplayServer

QUICK = LearnerBench(networks=("mlp",), batch_sizes=(8,), rounds=2, slice_s=0.02)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "CAPACITY", 256)


def test_the_phases_and_the_rest_are_the_whole_step():
    found = {(m.figure.strip(), m.subject): m for m in bench_learner(replace(QUICK, rounds=1))}
    ours = "mlp, batch 8, raydqn"
    step = found["learner step", ours]
    phases = [found[phase, ours].value for phase in (*PHASES, "rest")]
    assert sum(phases) == pytest.approx(step.value)
    assert min(phases[:-1]) > 0, "each phase takes time"
    assert found["samples", ours].value == pytest.approx(8e3 / step.value)
    plain = found["learner step", "mlp, batch 8, plain loop"]
    ratio = found["learner steps/s", "mlp, batch 8, raydqn ÷ plain loop"]
    assert ratio.value == pytest.approx(plain.value / step.value)


def test_what_differs_from_the_default_is_named_and_has_no_unequal_peer():
    found = list(bench_learner(replace(QUICK, precision="bf16")))
    assert {m.subject for m in found} == {"mlp, batch 8, bf16, raydqn"}
    (step,) = (m for m in found if m.figure == "learner step")
    assert step.n == 2


@pytest.mark.parametrize("network", ["mlp", "minatar-cnn"])
def test_the_measured_steps_are_the_learners_bit_for_bit(network):
    spec = SPECS[network]
    config = bench._config(network, 8, LearnerBench())
    timed = TimedLearner(config, spec, torch.device("cpu"))
    for _ in range(10):
        timed.step()
    server = ReplayServer(256, spec.frame, transition_item(spec.stack), 0.6, 512, 1, 0)
    for chunk in bench._chunks(spec):
        server.insert(encode_chunk(chunk))
    store = WeightStore()
    learner = Learner(config, spec, [InlineHandle(server)], InlineHandle(store), 0, None)
    assert learner.train(10).steps == 10
    learner.publish()
    _, reference = store.fetch(-1)
    learnt, _ = unpack_weights(reference.result())
    for name, parameter in timed.policy.state_dict().items():
        assert torch.equal(parameter, learnt[name]), name


def test_an_unknown_network_is_refused_in_one_line(capsys):
    assert cli.main(["bench", "learner", "--network", "mlp", "resnet"]) == 2
    assert "--network=resnet: must be one of mlp, minatar-cnn" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_in_one_line(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert cli.main(["bench", "learner", "--device", "cuda"]) == 2
    assert "cuda" in capsys.readouterr().err

"""The Python API: what it exports, what importing it costs, and that the four functions work.

`tests/typing/typed_api.py` holds its types.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import deploy
from common.config import Config
from common.errors import UserError
from deploy import Evaluation, Summary, evaluate, load_config, resume, train
from deploy.launch import api
from deploy.launch.argument_names import in_python
from support.program import TINY

FUNCTIONS = ("evaluate", "load_config", "resume", "train")


def test_the_exports_are_these_and_no_others():
    assert sorted(deploy.__all__) == ["Evaluation", "Summary", "VERSION", *FUNCTIONS]
    assert all(hasattr(deploy, name) for name in deploy.__all__)
    assert sorted(api.__dict__.keys() & set(FUNCTIONS)) == list(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_the_result_are_documented_and_typed(name):
    function = getattr(deploy, name)
    signature = inspect.signature(function)
    doc = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in doc
    arguments = doc.partition("\nArgs:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^ {4}(\w+):", arguments, re.M) == list(signature.parameters)
    assert signature.return_annotation in ("Config", "Evaluation", "Summary")
    assert all(parameter.annotation for parameter in signature.parameters.values())
    assert list(inspect.signature(getattr(api, name)).parameters) == list(signature.parameters)


def test_a_configuration_is_a_preset_a_file_and_overrides(tmp_path):
    assert load_config() == load_config("cartpole")
    file = tmp_path / "mine.toml"
    file.write_text("seed = 5\n[learner]\nbatch_size = 64\n")
    for given in (file, str(file)):
        config = load_config("cartpole", given, {"learner": {"batch_size": 32}})
        assert isinstance(config, Config)
        assert (config.seed, config.learner.batch_size) == (5, 32)
    with pytest.raises(UserError, match="did you mean cartpole"):
        load_config("cartpol")
    near = r'overrides\["learner"\]\["batch_sise"\]: unknown key; did you mean overrides\["learner"'
    with pytest.raises(UserError, match=near):
        load_config(overrides={"learner": {"batch_sise": 3}})
    file.write_text("[learner]\nbatch_sise = 3\n")
    with pytest.raises(UserError, match=r"mine\.toml: unknown key learner\.batch_sise; did you"):
        load_config("cartpole", file, {"seed": 2})


class View:
    update = notify = close = lambda self, *_: None


CONFIG = load_config()
WRONG = [
    (load_config, {"preset": 5}, "preset=5: must be one of acrobot, apex-cluster, atari, "),
    (load_config, {"preset": None}, "preset=None: must be one of"),
    (load_config, {"preset": "doom"}, "preset doom: unknown"),
    (load_config, {"file": 5}, "file=5: must be the path of a TOML file, or None"),
    (load_config, {"file": "no.toml"}, "file='no.toml': must be a TOML file that exists"),
    (load_config, {"overrides": 5}, 'overrides=5: must be a dict by section, such as {"learner"'),
    (load_config, {"overrides": ["seed"]}, "overrides=['seed']: must be a dict by section"),
    (load_config, {"overrides": {1: 2}}, "overrides={1: 2}: must be a dict by section"),
    (load_config, {"overrides": {"env": {1: 2}}}, "overrides={'env': {1: 2}}: must be a dict by"),
    (load_config, {"overrides": {"env": 3}}, 'overrides["env"]=3: must be a dict'),
    (load_config, {"overrides": {"lerner": {"gamma": 1}}},
     'overrides["lerner"]: unknown key; did you mean overrides["learner"]?'),
    (load_config, {"overrides": {"learner": {"gamma": 2}}},
     'overrides["learner"]["gamma"]=2: must be at most 1'),
    (train, {"config": "cartpole"}, "config='cartpole': must be a Config: load_config(\"cart"),
    (train, {"config": {"seed": 1}}, "config={'seed': 1}: must be a Config"),
    (train, {"run_dir": 5}, "run_dir=5: must be the path of a new or an empty folder, or None"),
    (train, {"run_dir": ""}, "run_dir='': must be the path of"),
    (train, {"run_dir": "a\0b"}, "run_dir='a\\x00b': must be the path of"),
    (train, {"run_dir": b"run"}, "run_dir=b'run': must be the path of"),
    (train, {"run_dir": "~no-such-user/x"}, "run_dir='~no-such-user/x': must be a path in the"),
    (train, {"run_dir": "."}, "run_dir=.: is not an empty folder"),
    (train, {"inline": "yes"}, "inline='yes': must be True or False"),
    (train, {"inline": None}, "inline=None: must be True or False"),
    (train, {"address": 6379}, "address=6379: must be auto, HOST:PORT or ray://HOST:10001"),
    (train, {"address": ""}, "address='': must be auto"),
    (train, {"view": print}, "view=<built-in function print>: must be an object with the methods"),
    (train, {"view": View}, "view=<class 'test_api.View'>: must be an object with the methods"),
    (resume, {"run_dir": None}, "run_dir=None: must be the path of a run folder, or the URL of"),
    (resume, {"run_dir": "nowhere"}, "run_dir='nowhere': not a run folder"),
    (resume, {"overrides": "seed=1"}, "overrides='seed=1': must be a dict"),
    (resume, {"overrides": {"learner": {"gama": 1}}}, 'overrides["learner"]["gama"]: unknown key'),
    (resume, {"overrides": {"stop": {"score": "x"}}}, "overrides[\"stop\"][\"score\"]='x': must"),
    (resume, {}, 'continue, set a greater value, or none: overrides["stop"]["learner_steps"]=None'),
    (resume, {"checkpoint": 3}, "checkpoint=3: must be the name of a checkpoint, or None"),
    (resume, {"checkpoint": "newest"}, "checkpoints/newest: not a checkpoint"),
    (resume, {"inline": "no"}, "inline='no': must be True, False, or None: as the run ran before"),
    (resume, {"address": b"auto"}, "address=b'auto': must be auto"),
    (resume, {"view": 1}, "view=1: must be an object with the methods update, notify, close"),
    (evaluate, {"run_dir": 5}, "run_dir=5: must be the path of a run folder"),
    (evaluate, {"run_dir": "s3://a/b"}, "run_dir='s3://a/b': not a run folder"),
    (evaluate, {"episodes": 0}, "episodes=0: must be a whole number of at least 1"),
    (evaluate, {"episodes": "3"}, "episodes='3': must be a whole number of at least 1"),
    (evaluate, {"episodes": 2.5}, "episodes=2.5: must be a whole number of at least 1"),
    (evaluate, {"episodes": True}, "episodes=True: must be a whole number of at least 1"),
    (evaluate, {"weights": "newest"}, "weights='newest': must be best or latest"),
    (evaluate, {"weights": ["best"]}, "weights=['best']: must be best or latest"),
    (evaluate, {"epsilon": 2}, "epsilon=2: must be a number from 0 to 1, or None"),
    (evaluate, {"epsilon": float("nan")}, "epsilon=nan: must be a number from 0 to 1, or None"),
    (evaluate, {"epsilon": "0.1"}, "epsilon='0.1': must be a number from 0 to 1, or None"),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(load_config(overrides={**TINY, "stop": {"learner_steps": 20}}), run)
    return run


@pytest.mark.parametrize(("function", "arguments", "message"), WRONG)
def test_a_wrong_argument_is_one_line_with_its_name_its_value_and_what_it_must_be(
    function, arguments, message, finished_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    usual = {train: {"config": CONFIG}, resume: {"run_dir": finished_run}}
    usual[evaluate] = {"run_dir": finished_run}
    with pytest.raises(UserError) as caught:
        function(**{**usual.get(function, {}), **arguments})
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    for word in ("command line", "config.toml:", "--"):
        assert word not in text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("--run-dir=x: taken; name another --run-dir or checkpoint.storage",
         "run_dir=x: taken; name another run_dir or checkpoint.storage"),
        ("--address=auto: no Ray; leave --address out", "address=auto: no Ray; leave address out"),
        ("whole: --checkpoint 000001-step-7", 'whole: checkpoint="000001-step-7"'),
        ("empty: --checkpoint.replay false", 'empty: overrides["checkpoint"]["replay"]=False'),
        ("on: --ray or --inline", "on: inline=False or inline=True"),
        ("start one (`raydqn train --address auto`)", "start one (`raydqn train --address auto`)"),
        ("--no.such-key 3, --run-dirs", "--no.such-key 3, --run-dirs"),
    ],
)  # fmt: skip
def test_options_in_messages_become_arguments(message, said):
    assert in_python(message) == said


def test_a_run_is_trained_resumed_and_evaluated(tmp_path):
    run = tmp_path / "run"
    config = load_config(overrides={**TINY, "stop": {"learner_steps": 60}})
    summary = train(config, str(run))
    assert summary.keys() == get_type_hints(Summary).keys()
    assert Path(summary["run"]) == run
    assert (summary["learner_steps"], summary["stop_reason"]) == (60, "learner_steps")
    with pytest.raises(UserError, match="has reached"):
        resume(run)
    longer = resume(run, {"stop": {"learner_steps": 80}})
    assert longer["learner_steps"] == 80

    result = evaluate(str(run), episodes=3, weights="latest", epsilon=1.0)
    assert result.keys() == get_type_hints(Evaluation).keys()
    assert (result["episodes"], result["epsilon"], result["learner_steps"]) == (3, 1.0, 80)
    assert evaluate(run, episodes=np.int64(2), epsilon=np.float32(0.5))["episodes"] == 2

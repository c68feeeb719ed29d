"""The Python API: what it exports, what importing it costs, and that the four functions work.

`tests/typing/typed_api.py` holds its types.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import deploy
from common.config import Config
from common.errors import UserError
from deploy import Evaluation, Summary, evaluate, load_config, resume, train
from deploy.launch import api
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


def test_importing_the_package_imports_nothing_heavy():
    code = "import deploy, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"torch", "ray", "pydantic", "numpy", "gymnasium", "rich"} & set(loaded)


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
    with pytest.raises(UserError, match=r"did you mean learner\.batch_size"):
        load_config(overrides={"learner": {"batch_sise": 3}})


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
    with pytest.raises(UserError, match="weights='newest': must be best or latest"):
        evaluate(run, weights="newest")
    with pytest.raises(UserError, match=r"evaluation\.epsilon=2"):
        evaluate(run, epsilon=2)
    with pytest.raises(UserError, match="not a run folder"):
        evaluate(tmp_path)

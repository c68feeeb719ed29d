"""Environments of users: their modules, and the errors that they raise."""

from __future__ import annotations

import sys
import textwrap
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from actors.environments import environment_spec, make_environment
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from support.acting import (
    COUNTING,
    CountingEnv,
    register,
)
from support.environments import actions_of, refusal

MODULE = """
import gymnasium as gym
import numpy as np


class Mine(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size=0.0, render_mode=None):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([0, self.size], np.float32), {}

    def step(self, action):
        return np.array([1, self.size], np.float32), 1.0, False, False, {}


gym.register("ActingTestMine-v0", Mine)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported; its traces are wiped out afterwards."""
    names = []
    registered = set(gym.registry)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        names.append(name)

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in names:
        sys.modules.pop(name, None)
    for env_id in set(gym.registry) - registered:
        del gym.registry[env_id]


def test_an_environment_of_the_users_own_module_runs(module, make):
    module("acting_test_mine", MODULE)
    environment = make(id="acting_test_mine:ActingTestMine-v0", kwargs={"size": 0.5})
    assert environment.reset(0).tolist() == [[0, 0.5]] * 2
    assert environment.step(actions_of(0, 1)).observation.tolist() == [[1, 0.5]] * 2
    assert environment.spec.protocol["kwargs"] == {"size": 0.5}


def test_a_module_that_is_not_there_is_named():
    message = refusal(id="acting_test_nowhere:X-v0")
    assert "acting_test_nowhere" in message
    assert "cannot be imported" in message


def test_a_module_that_raises_on_import_is_a_users_mistake_in_one_line(module):
    module("acting_test_broken", "raise ValueError('first\\nsecond')")
    message = refusal(id="acting_test_broken:X-v0")
    assert "ValueError: first" in message


def test_an_environment_that_cannot_be_made_says_why():
    message = refusal(id="CartPole-v1", kwargs={"gravitation": 3})
    assert "gravitation" in message


FRAGILE = """
import gymnasium as gym
import numpy as np


class Fragile(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    copies = 0

    def __init__(self, at=None, render_mode=None):
        Fragile.copies += 1
        if at == Fragile.copies:
            raise ConnectionError("port is taken\\nby another")
        self.at, self.render_mode = at, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.at == "reset":
            raise KeyError("no track")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if self.at == "step":
            raise ZeroDivisionError("no fuel")
        if self.at == "answer":
            return np.zeros(2, np.float32), 1.0, False
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self):
        return np.zeros((20, 30, 3), np.uint8)

    def close(self):
        if self.at == "close":
            raise OSError("will not go")


gym.register("ActingTestFragile-v0", Fragile)
"""


@pytest.fixture
def fragile(module):
    """The configuration of an environment that raises where `at` says."""
    module("acting_test_fragile", FRAGILE)

    def config(at, **more):
        env_id = "acting_test_fragile:ActingTestFragile-v0"
        return EnvConfig(id=env_id, kwargs={"at": at}, **more)

    return config


@pytest.mark.parametrize("observation", ["state", "pixels"])
@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("reset", "reset() raised KeyError: 'no track' (acting_test_fragile.py, line "),
        ("step", "step() raised ZeroDivisionError: no fuel (acting_test_fragile.py, line "),
        ("close", "close() raised OSError: will not go (acting_test_fragile.py, line "),
        (1, "cannot be made (ConnectionError: port is taken)"),
    ],
)
def test_an_environment_that_raises_at_once_is_refused_in_one_line(fragile, observation, at, says):
    with pytest.raises(UserError) as caught:
        environment_spec(fragile(at, observation=observation))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("observation", ["state", "pixels"])
def test_a_later_copy_that_cannot_be_made_is_told_like_the_first(fragile, observation):
    with pytest.raises(UserError, match=r"\(ConnectionError: port is taken\); another copy is"):
        make_environment(fragile(3, observation=observation), 4)


def test_an_own_vectorised_version_that_cannot_be_made_is_told_too():
    def no_vector(num_envs, **kwargs):
        raise ConnectionError("no cluster")

    env_id = register("NoVector", CountingEnv, vector_entry_point=no_vector)
    assert "cannot be made (ConnectionError: no cluster)" in refusal(id=env_id)


def test_of_two_errors_at_the_start_the_first_is_told(fragile, monkeypatch):
    config = fragile("reset")
    make_environment(config, 1).close()
    cls = sys.modules["acting_test_fragile"].Fragile
    monkeypatch.setattr(cls, "close", lambda self: 1 / 0)
    with pytest.raises(UserError, match=r"reset\(\) raised KeyError"):
        environment_spec(config)


def test_an_environment_that_will_not_close_says_so_in_one_line(fragile):
    with pytest.raises(EnvironmentFailedError, match=r"close\(\) raised OSError: will not go \("):
        make_environment(fragile("close"), 2).close()


def failure(environment):
    """The EnvironmentFailedError of a step."""
    environment.reset(0)
    with pytest.raises(EnvironmentFailedError) as caught:
        environment.step(np.zeros(environment.num_envs, np.int64))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("observation", ["state", "pixels"])
def test_an_error_is_told_with_the_environments_own_lines_and_none_of_ours(fragile, observation):
    error = failure(make_environment(fragile("step", observation=observation), 1))
    assert str(error).endswith(
        "(acting_test_fragile.py, line 26, in step; copy 0, step 1 of its episode)"
    )
    assert 'raise ZeroDivisionError("no fuel")' in error.trace
    assert error.trace.count("File ") == 1


def test_an_error_of_gymnasium_is_told_with_its_lines(fragile):
    # Three values instead of five: it is gymnasium's line that raises.
    error = failure(make_environment(fragile("answer"), 1))
    assert "gymnasium" in error.trace
    assert "environment.py" not in str(error) + error.trace
    assert "(passive_env_checker.py, line" in str(error)


def test_an_error_that_no_line_of_theirs_raises_has_no_place(make):
    environment = make(id=COUNTING)
    environment._vector.step = partial(int, base=0)  # compiled code leaves no line
    error = failure(environment)
    assert str(error).startswith(f"env.id={COUNTING}: step() raised TypeError: ")
    assert "line" not in str(error)
    assert error.trace == ""


def test_a_module_of_the_users_own_that_is_called_as_one_of_ours_is_told(module):
    module("acting_test_own_common", "from common.rewards import BONUS")
    assert (
        "module acting_test_own_common imports common.rewards, but `common` is a package of "
        "raydqn's; rename the package `common` of yours"
    ) in refusal(id="acting_test_own_common:Mine-v0")


IMPORTS = ("from common.rewards import A", "import common\n        common.rewards")


@pytest.mark.parametrize("imports", IMPORTS)
@pytest.mark.parametrize("method", ["__init__", "reset"])
def test_a_name_of_ours_that_an_environment_imports_later_is_told(module, imports, method):
    name = f"acting_test_late_{method.strip('_')}_{IMPORTS.index(imports)}"
    module(
        name,
        f"import gymnasium as gym\n\nclass Mine(gym.Env):\n"
        f"    observation_space = action_space = gym.spaces.Discrete(2)\n"
        f"    def {method}(self, **kwargs):\n        {imports}\n\n"
        f'gym.register("{name}-v0", entry_point=Mine)\n',
    )
    with pytest.raises(UserError) as caught:
        environment_spec(EnvConfig(id=f"{name}:{name}-v0"))
    assert "raydqn has a package `common`, too: rename yours" in str(caught.value)


def test_a_misspelt_id_of_a_module_suggests_one_that_the_module_registered(module):
    registers = "import gymnasium as gym\n\nclass Mine(gym.Env): ...\n\n"
    module("acting_test_mine", registers + 'gym.register("ActingTestMine-v0", entry_point=Mine)')
    message = refusal(id="acting_test_mine:ActingTestMine-v1")
    assert "did you mean acting_test_mine:ActingTestMine-v0?" in message

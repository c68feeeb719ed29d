"""Algorithms: tables of choices on top of any preset."""

from __future__ import annotations

import json
import re

import pytest

from common.config_toml import KEYS
from common.errors import UserError
from deploy.launch.presets import (
    algorithm_comment,
    algorithm_names,
    algorithm_values,
    make_config,
    preset_names,
)
from support.program import raydqn_here

CHOICES = {
    *("network.head", "network.dueling", "network.noisy", "exploration.kind", "replay.alpha"),
    *("learner.n_step", "learner.double", "learner.munchausen"),
}
"""Set by each algorithm, so that no choice of a preset's joins it."""


def keys_of(name):
    return {f"{section}.{key}" for section, keys in algorithm_values(name).items() for key in keys}


@pytest.mark.parametrize("name", algorithm_names())
def test_an_algorithm_sets_each_choice_and_nothing_of_the_environments(name):
    assert keys_of(name) >= CHOICES
    assert keys_of(name) <= set(KEYS)
    others = ("learning_rate", "batch_size", "target_sync_steps", "hidden", "kind", "capacity")
    assert not [key for key in keys_of(name) - CHOICES if key.endswith(others)]
    comment = " ".join(algorithm_comment(name))
    assert re.search(r"\bet al\. 20[12]\d", comment), "names its paper"


@pytest.mark.parametrize("name", algorithm_names())
def test_an_algorithm_goes_on_top_of_every_preset(name):
    for preset in preset_names():
        config = make_config(preset, algorithm=name)
        for section, values in algorithm_values(name).items():
            for key, value in values.items():
                assert getattr(getattr(config, section), key) == value
        assert config.env == make_config(preset).env


@pytest.mark.parametrize("preset", preset_names())
def test_a_schedule_of_epsilon_outlasts_the_warm_up_of_every_preset(preset):
    config = make_config(preset, algorithm="dqn")
    assert config.exploration.kind == "linear"
    assert config.exploration.decay_steps > config.learner.warmup_transitions


@pytest.mark.parametrize("preset", preset_names())
def test_the_atoms_of_every_preset_hold_its_best_return(preset):
    # The discounted return of a reward of 1 in each step is below 1 / (1 − γ).
    config = make_config(preset, algorithm="c51")
    if config.env.id == "CartPole-v1":
        assert config.network.value_max >= 0.99 / (1 - config.learner.gamma)
    elif config.env.id in ("Acrobot-v1", "MountainCar-v0"):
        assert config.network.value_min <= -0.99 / (1 - config.learner.gamma)
    else:
        assert config.env.reward_clip == 1.0 or config.network.value_max > 10


def test_a_file_and_overrides_go_on_top_of_an_algorithm(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[network]\natoms = 21\n[learner]\nn_step = 2\n")
    overrides = {"learner": {"n_step": 4}}
    config = make_config("cartpole", file, overrides, algorithm="rainbow")
    assert (config.network.atoms, config.learner.n_step) == (21, 4)
    assert config.network.head == "categorical"
    assert config.learner.learning_rate == make_config("cartpole").learner.learning_rate


def test_another_environment_needs_a_range_of_returns_of_its_own():
    other = {"env": {"id": "Acrobot-v1"}}
    with pytest.raises(
        UserError, match=r"value_min and network\.value_max must be set for env\.id=A"
    ):
        make_config("cartpole", None, other, algorithm="c51")
    given = {**other, "network": {"value_min": -100.0, "value_max": 0.0}}
    assert make_config("cartpole", None, given, algorithm="c51").network.value_max == 0.0
    assert make_config("cartpole", None, other, algorithm="iqn").network.value_max == 10.0


def test_an_unknown_algorithm_is_told_with_the_nearest_name():
    with pytest.raises(UserError, match=r"^algorithm rainbw: unknown; did you mean rainbow\? \(kn"):
        make_config("cartpole", algorithm="rainbw")
    code, _, err = raydqn_here("config", "cartpole", "--algorithm", "rainbw")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--algorithm munchausen-dqn --learner.double true", "one of them must be false"),
        ("--algorithm c51 --learner.munchausen true", "network.head must not be categorical"),
        ("--algorithm iqn --network.hidden 32", "needs two hidden layers of an mlp"),
        ("--algorithm c51 --network.value-min 100", "must be less than value_max=100"),
        ("--learner.munchausen true --learner.double false --env.action-mask info", "must be none"),
        (
            "--algorithm c51 --network.kind notebook",
            "head=categorical: the notebook's network must give",
        ),
    ],
)
def test_choices_that_make_no_sense_together_are_refused_in_one_line(options, words):
    code, out, err = raydqn_here("config", "cartpole", *options.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


def test_the_list_has_each_algorithm_with_its_paper_and_keys():
    code, out, _ = raydqn_here("algorithms")
    assert code == 0
    for name in algorithm_names():
        assert re.search(rf"^{name} +{re.escape(algorithm_comment(name)[0][:20])}", out, re.M)
    assert 'network.head="categorical"' in " ".join(out.split())
    code, alone, _ = raydqn_here("algorithms", "rainbow")
    assert (code, alone.splitlines()[0].split()[0]) == (0, "rainbow")
    assert alone in out
    assert raydqn_here("algorithms", "rainbw")[0] == 2
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = raydqn_here("algorithms", "--json")
    assert json.loads(out)["rainbow"]["keys"]["replay"] == {
        "alpha": 0.5,
        "beta": 0.4,
        "beta_end": 1.0,
    }

"""`--env.kwargs`: in TOML, in JSON, and entry by entry."""

from __future__ import annotations

import pytest

from common.config_toml import merge
from common.errors import UserError
from deploy.cli.overrides import split_overrides
from deploy.launch.presets import make_config


def kwargs_of(*words: str):
    overrides, rest = split_overrides(words)
    assert rest == []
    return make_config(overrides=overrides).env.kwargs


@pytest.mark.parametrize(
    "words",
    [
        ("--env.kwargs", '{is_slippery=false, map_name="8x8"}'),
        ("--env.kwargs", '{"is_slippery": false, "map_name": "8x8"}'),
        ('--env.kwargs={"is_slippery": false, "map_name": "8x8"}',),
        ("--env.kwargs.is_slippery", "false", "--env.kwargs.map_name=8x8"),
        ("--env.kwargs", '{"map_name": "4x4"}', "--env.kwargs.map_name", '"8x8"',
         "--env.kwargs.is_slippery=false"),
    ],
)  # fmt: skip
def test_all_forms_give_the_same(words):
    assert kwargs_of(*words) == {"is_slippery": False, "map_name": "8x8"}


def test_names_of_entries_keep_their_spelling_and_may_be_nested():
    words = ("--env.kwargs.a-b", "1", "--env.kwargs.c.d", "[1, 2]", "--env.kwargs.c.e=x")
    assert kwargs_of(*words) == {"a-b": 1, "c": {"d": [1, 2], "e": "x"}}


def test_an_entry_leaves_the_others_of_a_recorded_run_alone():
    recorded = {"env": {"kwargs": {"a": 1, "b": 2}}, "seed": 3}
    overrides, _ = split_overrides(["--env.kwargs.b", "5"])
    assert merge(recorded, overrides) == {"env": {"kwargs": {"a": 1, "b": 5}}, "seed": 3}


@pytest.mark.parametrize("word", ["--env.kwarg.x", "--env.id.x", "--learner.gamma.x"])
def test_only_a_table_has_entries(word):
    with pytest.raises(UserError, match="unknown key"):
        split_overrides([word, "1"])

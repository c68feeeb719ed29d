"""Mistakes in a configuration: our own words, and the key as the user wrote it."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from common.config import Config
from common.config_errors import OTHER_KIND, OVERRIDES, WORDS, WORDS_OF_KEYS
from common.config_toml import KEYS, build, is_list
from common.errors import UserError

WRONG = [
    *("abc", "", "4 bananas", 1.5, -1, -1.5, 0, 10**60, 10**30, True, None, [], [1], ["a"], {}),
    *({"a": 1}, {1: 2}, [1, 2, 3, 4, 5], float("nan"), float("inf"), b"\xff", object()),
]
OF_PYDANTIC = re.compile(
    r"[Ii]nput|[Ss]hould|valid \w+|parse|unable|instance of|Value error|validation|pydantic"
)


def nested(key: str, value: object) -> dict[str, object]:
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def refusals(key: str) -> list[tuple[object, str, list[str]]]:
    """Wrong values of a key, each with the message about it and pydantic's kinds of errors."""
    found = []
    for value in WRONG:
        values = nested(key, value)
        try:
            build(values, "mine.toml")
        except UserError as error:
            kinds: list[str] = []
            try:
                Config.model_validate(values)
            except ValidationError as raw:
                kinds = [one["type"] for one in raw.errors()]
            found.append((value, str(error), kinds))
    return found


@pytest.mark.parametrize("key", [*KEYS, *Config.model_fields])
def test_every_wrong_value_of_every_key_is_told_in_our_own_words(key):
    found = refusals(key)
    assert len(found) >= 5
    for value, message, kinds in found:
        section = key.partition(".")[0]
        # Keys that do not fit each other are named by our own validators.
        assert re.match(
            rf"mine\.toml: (unknown key )?({re.escape(key)}|{section}|\w+\.\w+)", message
        ), message
        assert "\n" not in message
        assert len(message) < 500
        assert not OF_PYDANTIC.search(message), message
        assert OTHER_KIND not in message, (value, kinds)
        assert "must" in message or "unknown key" in message or "needs" in message, message


def test_no_kind_is_described_that_is_never_met():
    """Of a configuration, or of a checkpoint's state, whose counters are checked strictly."""
    met = {kind for key in [*KEYS, *Config.model_fields] for _, _, found in refusals(key)
           for kind in found}  # fmt: skip
    rare = {"missing", "string_sub_type", "string_unicode", "int_parsing_size", "dict_type"}
    rare |= {"model_attributes_type", "finite_number"}
    assert set(WORDS) - met <= rare


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learner": {"batch_size": "abc"}}, "learner.batch_size=abc: must be a whole number"),
        ({"learner": {"batch_size": 1.5}}, "learner.batch_size=1.5: must be a whole number"),
        ({"learner": {"batch_size": None}}, "learner.batch_size=none: must be a whole number"),
        ({"learner": {"batch_size": 0}}, "learner.batch_size=0: must be at least 1"),
        ({"learner": {"gamma": "a lot"}}, "learner.gamma='a lot': must be a number"),
        ({"learner": {"gamma": 1.5}}, "learner.gamma=1.5: must be at most 1"),
        ({"learner": {"learning_rate": 0}}, "learner.learning_rate=0: must be greater than 0"),
        ({"learner": {"double": "perhaps"}}, "learner.double=perhaps: must be true or false"),
        ({"learner": 3}, "learner=3: must be a table"),
        ({"learner": None}, "learner=none: must be a table"),
        ({"env": {"id": 3}}, "env.id=3: must be text"),
        ({"env": {"kwargs": 3}}, "env.kwargs=3: must be a table with text as keys"),
        ({"env": {"crop": [1]}}, "env.crop=[1]: must be a list of four numbers: left, top"),
        ({"env": {"sticky_actions": 1}}, "env.sticky_actions=1: must be less than 1"),
        ({"network": {"hidden": 5}}, "network.hidden=5: must be a list of whole numbers"),
        ({"network": {"hidden": [8, "x"]}}, 'network.hidden=[8, "x"]: must be a list of whole'),
        ({"network": {"kind": "big"}}, "network.kind=big: must be mlp, nature-cnn, small-cnn, "),
        ({"replay": {"capacity": [1]}}, "replay.capacity=[1]: must be a whole number of trans"),
        ({"replay": {"capacity": 1.5}}, "replay.capacity=1.5: must be a whole number of trans"),
        ({"replay": {"capacity": "4 GB/s"}}, "replay.capacity='4 GB/s': must be a whole number of"),
        ({"actors": {"count": "many"}}, "actors.count=many: must be a whole number of at least 1, "
         "or auto"),
        ({"actors": {"count": 0}}, "actors.count=0: must be a whole number of at least 1, or auto"),
        ({"checkpoint": {"storage": ""}}, "checkpoint.storage='': must not be empty"),
        ({"lerner": {}}, "unknown key lerner; did you mean learner?"),
        ({"learner": {"gama": 1}}, "unknown key learner.gama; did you mean learner.gamma?"),
        ({"learner": {"momentum": 1}}, "unknown key learner.momentum"),
    ],
)  # fmt: skip
def test_a_mistake_names_key_value_and_what_it_must_be(values, message):
    with pytest.raises(UserError) as caught:
        build(values, "mine.toml")
    assert str(caught.value).startswith(f"mine.toml: {message}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"learner": {"gama": 0.9}},
            'overrides["learner"]["gama"]: unknown key; did you mean '
            'overrides["learner"]["gamma"]?',
        ),
        ({"lerner": {"gamma": 0.9}},
         'overrides["lerner"]: unknown key; did you mean overrides["learner"]?'),
        ({"sead": 1}, 'overrides["sead"]: unknown key; did you mean overrides["seed"]?'),
        ({"zzz": 1}, 'overrides["zzz"]: unknown key'),
        ({"seed": "x"}, "overrides[\"seed\"]='x': must be a whole number"),
        ({"learner": 3}, 'overrides["learner"]=3: must be a dict'),
        ({"env": {"kwargs": 3}}, 'overrides["env"]["kwargs"]=3: must be a dict with text as keys'),
        ({"actors": {"count": 0}}, 'overrides["actors"]["count"]=0: must be a whole number of at '
         "least 1, or auto"),
        ({"network": {"hidden": [0]}}, 'overrides["network"]["hidden"]=[0]: each layer'),
        ({"network": {"kind": "notebook"}}, "overrides: network.dueling=true: the notebook's"),
        ({"learner": {"batch_size": 10**6}}, "overrides: replay.capacity=100000: must be at least"),
    ],
)  # fmt: skip
def test_in_python_a_mistake_names_the_path_in_the_argument(overrides, message):
    values = {"network": {"dueling": True}, **overrides}
    if "network" in overrides:
        values["network"] = {"dueling": True, **overrides["network"]}
    with pytest.raises(UserError) as caught:
        build(values, "mine.toml", overrides, OVERRIDES)
    assert str(caught.value).startswith(message)


def test_a_mistake_in_the_file_is_not_blamed_on_the_overrides():
    with pytest.raises(UserError, match=r"^mine\.toml: learner\.gamma=2: must be at most 1$"):
        build({"learner": {"gamma": 2, "n_step": 1}}, "mine.toml", {"learner": {"n_step": 1}})


def test_every_list_has_words_of_its_own():
    assert {key for key in KEYS if is_list(key)} <= set(WORDS_OF_KEYS) <= set(KEYS)

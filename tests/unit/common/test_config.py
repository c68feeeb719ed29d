import tomllib
import types
from importlib import resources
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config import Config
from common.config_toml import KEYS, build, is_list, load_toml, merge, parse_value, to_toml
from common.errors import UserError
from support.hypothesis_profiles import examples

PRESETS = sorted(
    (p for p in resources.files("deploy.presets").iterdir() if p.name.endswith(".toml")),
    key=lambda p: p.name,
)

# TOML's text is all of Unicode but surrogates and control characters that need escapes it has.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXT, st.floats(-1e9, 1e9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
CONFIGS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        "env": st.fixed_dictionaries(
            {
                "id": TEXT,
                "kwargs": st.dictionaries(TEXT, VALUES, max_size=3),
                "crop": st.one_of(st.none(), st.just((0.0, 0.25, 1.0, 0.5))),
                "reward_clip": st.one_of(st.none(), st.floats(1e-300, 1e300)),
            }
        ),
        "network": st.fixed_dictionaries(
            {
                "hidden": st.lists(st.integers(1, 10**9), min_size=1, max_size=4),
                "dueling": st.booleans(),
            }
        ),
        "learner": st.fixed_dictionaries({"learning_rate": st.floats(1e-300, 1e300)}),
        "stop": st.fixed_dictionaries(
            {"score": st.one_of(st.none(), st.floats(-1e300, 1e300)), "wall_s": st.none()}
        ),
    }
)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.name)
def test_every_preset_is_valid_and_says_in_its_first_line_what_it_is(preset):
    text = preset.read_text(encoding="utf-8")
    config = build(tomllib.loads(text), preset.name)
    assert config != Config()
    assert text.startswith("# ")


def test_there_are_presets_for_both_ways_to_see_cartpole():
    assert {"cartpole.toml", "cartpole-pixels.toml"} <= {preset.name for preset in PRESETS}


OPTIONAL = [key for key, info in KEYS.items() if type(None) in get_args(info.annotation)]


def values_of(annotation: Any, info: Any) -> st.SearchStrategy[Any]:
    """Values of a key's type, mostly within its bounds; `build` says which are taken."""
    bounds = {type(bound).__name__: bound for bound in info.metadata}
    low = [getattr(bounds[name], name.lower()) for name in ("Ge", "Gt") if name in bounds]
    high = [getattr(bounds[name], name.lower()) for name in ("Le", "Lt") if name in bounds]
    if annotation is int and not low:
        return st.integers(1_000, 10**9)  # replay.capacity
    if annotation is int:  # small ones, which fit the rest
        return st.integers(low[0], high[0] if high else low[0] + 200)
    if annotation is float:
        return st.floats(low[0] if low else -1e300, high[0] if high else 1e300)
    if get_origin(annotation) in (Union, types.UnionType):
        return st.one_of([values_of(choice, info) for choice in get_args(annotation)])
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        return st.sampled_from([(8, 4), (0, 0, 1, 0.5), ()])
    if get_origin(annotation) is dict:
        return st.dictionaries(TEXT, VALUES, max_size=3)
    return {bool: st.booleans(), str: TEXT, type(None): st.none()}[annotation]


def with_value(key: str, value: Any) -> dict[str, Any]:
    section, _, leaf = key.rpartition(".")
    return {section: {leaf: value}} if section else {leaf: value}


VALUES_OF = {
    "env.action_mask": st.sampled_from(["info", "info:legal moves", "method:legal"]),
    "network.kind": st.sampled_from(["mlp", "impala-cnn", "mine.nets:Torso_2"]),
}
"""Of texts of which few are taken."""


@pytest.mark.parametrize("key", KEYS)
@given(data=st.data(), comments=st.booleans())
@examples(8)
def test_toml_out_and_in_gives_every_key_the_same_value(key, comments, data):
    values = VALUES_OF[key] if key in VALUES_OF else values_of(KEYS[key].annotation, KEYS[key])
    value = data.draw(values)
    try:
        config = build(with_value(key, value))
    except UserError:
        assume(False)
    assert build(tomllib.loads(to_toml(config, comments))) == config


@pytest.mark.parametrize("key", OPTIONAL)
def test_none_can_be_written_for_every_optional_key(key):
    assert build(with_value(key, "none")) == build(with_value(key, None))
    config = build(with_value(key, None))
    for text in (to_toml(config), to_toml(config, comments=False)):
        assert build(tomllib.loads(text)) == config


@pytest.mark.parametrize(
    "value", ["infos", "info:", "method:", "method:a b", "method:1", "legal()"]
)
def test_an_action_mask_has_a_source(value):
    with pytest.raises(UserError, match=r"env\.action_mask=.*must be none, info, info:KEY, method"):
        build({"env": {"action_mask": value}})


def test_none_is_no_value_of_other_keys():
    with pytest.raises(UserError, match=r"checkpoint\.keep=none: must be a whole number"):
        build({"checkpoint": {"keep": "none"}})
    with pytest.raises(UserError, match=r"checkpoint\.every_s=never: must be a number"):
        build({"checkpoint": {"every_s": "never"}})
    assert build({"env": {"id": "none"}, "replay": {"compression": "none"}}).env.id == "none"


@given(CONFIGS, st.booleans())
@examples(60)
def test_toml_out_and_in_gives_the_same_configuration(values, comments):
    config = build(values)
    assert build(tomllib.loads(to_toml(config, comments))) == config


def test_the_toml_of_the_defaults_explains_every_key(tmp_path):
    text = to_toml(Config())
    for key, info in KEYS.items():
        assert f"{key.rpartition('.')[2]} = " in text
        assert info.description is None or info.description in text
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    assert build(load_toml(path)) == Config()


def test_every_key_but_the_sections_has_a_description():
    assert [key for key, info in KEYS.items() if not info.description] == []


def test_the_configuration_cannot_be_changed():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 2
    with pytest.raises(ValidationError, match="frozen"):
        config.replay.capacity = 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replay": {"capcity": 5}}, "unknown key replay.capcity; did you mean replay.capacity?"),
        ({"zzz": 5}, "unknown key zzz"),
        ({"replay": {"capacity": 0}}, "replay.capacity=0: must be at least 1"),
        ({"replay": {"alpha": 1.5}}, "replay.alpha=1.5: must be at most 1"),
        ({"learner": {"gamma": "much"}}, "learner.gamma=much: must be a number"),
        ({"learner": {"learning_rate": float("nan")}}, "learner.learning_rate=nan: "),
        ({"learner": {"samples_per_insert": float("inf")}}, "learner.samples_per_insert=inf: "),
        ({"learner": {"samples_per_insert": 0}}, "learner.samples_per_insert=0: "),
        ({"learner": {"stall_timeout_s": 0}}, "learner.stall_timeout_s=0: must be greater than 0"),
        ({"env": {"crop": [0.5, 0, 0.5, 1]}}, "env.crop=[0.5, 0.0, 0.5, 1.0]: must be left"),
        ({"env": {"crop": [0, 0, 1.5, 1]}}, "env.crop=[0.0, 0.0, 1.5, 1.0]: must be left"),
        ({"network": {"hidden": [8, 0]}}, "network.hidden=[8, 0]: each layer"),
        ({"network": {"kind": "nature-cnn", "hidden": []}}, "network.hidden=[]: nature-cnn"),
        ({"network": {"kind": "notebook", "dueling": True}}, "network.dueling=true: "),
        ({"network": {"dueling": True, "hidden": []}}, "network.dueling=true: needs at least one"),
        ({"network": {"kind": "transformer"}}, "network.kind=transformer: must be mlp, nature-cnn"),
        ({"seed": -1}, "seed=-1: "),
        ({"seed": 2**63}, f"seed={2**63}: "),
    ],
)
def test_errors_name_key_value_and_advice_in_one_line(values, message):
    with pytest.raises(UserError) as caught:
        build(values, "run.toml")
    assert str(caught.value).startswith(f"run.toml: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"replay": {"capacity": 1000}, "learner": {"batch_size": 1001}},
            "replay.capacity=1000: must be at least learner.batch_size=1001",
        ),
        (
            {"replay": {"capacity": 1000}, "learner": {"warmup_transitions": 1001}},
            "learner.warmup_transitions=1001: must not exceed replay.capacity=1000",
        ),
        (
            # 16 copies × (16 steps + windows of 3) = 304 transitions in the largest message
            {"replay": {"capacity": 3039, "shards": 10}},
            "replay.capacity=3039: each shard (replay.shards=10) must hold the largest message of "
            "an actor, 304",
        ),
        (
            {"learner": {"samples_per_insert_error": 2047.9}},
            "learner.samples_per_insert_error=2047.9: must be at least 2048",
        ),
        (
            {"learner": {"samples_per_insert_error": 255, "samples_per_insert": 0.01}},
            "learner.samples_per_insert_error=255: must be at least 256",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(values, message):
    with pytest.raises(UserError) as caught:
        build(values)
    assert str(caught.value).startswith(f"configuration: {message}")


@pytest.mark.parametrize(
    "values",
    [
        {"replay": {"capacity": 1000}, "learner": {"batch_size": 1000}},
        {"replay": {"capacity": 1000}, "learner": {"warmup_transitions": 1000}},
        {"replay": {"capacity": 3040, "shards": 10}},
        {"learner": {"samples_per_insert_error": 2048}},
    ],
)
def test_parts_that_just_fit_are_accepted(values):
    assert isinstance(build(values), Config)


def test_sizes_of_messages_and_reports_follow_from_the_actors():
    config = build({"actors": {"envs": 4, "collect_steps": 8, "chunk_steps": 10}})
    assert config.max_chunk_transitions == 4 * (10 + 3)
    assert config.insert_quantum == 40  # a chunk arrives whole, whatever a report covers
    assert config.min_ratio_error == 320.0
    assert config.ratio_error == 320.0 + 256 * 20


def test_a_given_error_range_is_taken():
    assert build({"learner": {"samples_per_insert_error": 5000}}).ratio_error == 5000.0


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 100),
    st.floats(0.01, 100),
    st.integers(1, 1000),
)
@examples(60)
def test_the_default_error_range_is_always_wide_enough(envs, collect, chunk, count, ratio, batch):
    config = build(
        {
            "actors": {
                "envs": envs,
                "collect_steps": collect,
                "chunk_steps": chunk,
                "count": count,
            },
            "learner": {"samples_per_insert": ratio, "batch_size": batch},
        }
    )
    assert config.ratio_error >= config.min_ratio_error


def test_merging_overrides_key_by_key_and_leaves_both_alone():
    base = {"seed": 1, "env": {"id": "A", "kwargs": {"a": 1}}, "stop": {"score": 5}}
    over = {"seed": 2, "env": {"kwargs": {"b": 2}}, "replay": {"alpha": 0.0}}
    assert merge(base, over) == {
        "seed": 2,
        "env": {"id": "A", "kwargs": {"b": 2}},  # kwargs are one value, not a section
        "stop": {"score": 5},
        "replay": {"alpha": 0.0},
    }
    assert base == {"seed": 1, "env": {"id": "A", "kwargs": {"a": 1}}, "stop": {"score": 5}}
    assert over["env"] == {"kwargs": {"b": 2}}


def test_a_section_that_is_no_table_becomes_a_users_error_also_after_merging():
    with pytest.raises(UserError, match="env"):
        build(merge({"env": 3}, {"seed": 1}))
    with pytest.raises(UserError, match="env"):
        build(merge({"env": {"id": "A"}}, {"env": 3}))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1_000", 1000),
        ("3e-4", 3e-4),
        ("true", True),
        ("none", "none"),
        ("None", "None"),
        ("[64, 64]", [64, 64]),
        ('"quoted"', "quoted"),
        ("CartPole-v1", "CartPole-v1"),
        ("ALE/Pong-v5", "ALE/Pong-v5"),
        ("{ a = 1 }", {"a": 1}),
        ("", ""),
    ],
)
def test_values_of_the_command_line_are_toml_or_text(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_lists_are_known_by_their_keys():
    assert {key for key in KEYS if is_list(key)} == {"env.crop", "env.wrappers", "network.hidden"}


def test_a_file_that_is_missing_or_no_toml_is_a_users_error(tmp_path):
    path = tmp_path / "x.toml"
    with pytest.raises(UserError, match=r"x\.toml: cannot be read"):
        load_toml(path)
    path.write_text("seed = ")
    with pytest.raises(UserError, match=r"x\.toml: not a TOML file"):
        load_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"x\.toml: not a TOML file"):
        load_toml(path)

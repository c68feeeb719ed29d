"""`did you mean …?`: slips of the keyboard get a suggestion, other words get none."""

from __future__ import annotations

import pytest

from common.config_toml import KEYS
from common.suggestion import closest, edits, suggest

COMMANDS = ("train", "resume", "evaluate", "plot", "config", "presets", "set", "scale", "status")
PRESETS = ("cartpole", "cartpole-pixels", "pong")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learner.batch_sise", "learner.batch_size"),
        ("learner.batchsize", "learner.batch_size"),
        ("learner.gama", "learner.gamma"),
        ("lerner.gamma", "learner.gamma"),
        ("laerner.btach_size", "learner.batch_size"),
        ("learner.learning_rte", "learner.learning_rate"),
        ("learner.sample_per_insert", "learner.samples_per_insert"),
        ("Learner.Double", "learner.double"),
        ("replay.capcity", "replay.capacity"),
        ("replay.alfa", "replay.alpha"),
        ("replay.shard", "replay.shards"),
        ("stop.learner_step", "stop.learner_steps"),
        ("stop.scroe", "stop.score"),
        ("actors.cuont", "actors.count"),
        ("network.hiden", "network.hidden"),
        ("sead", "seed"),
    ],
)
def test_a_slip_is_recognised(typed, meant):
    assert closest(typed, KEYS) == meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("batch_size", "learner.batch_size"),
        ("learner.capacity", "replay.capacity"),
        ("network.learning_rate", "learner.learning_rate"),
        ("alpha", None),  # of exploration, and of replay
        ("learner.every_s", None),
    ],
)
def test_a_name_in_a_wrong_section_is_found_if_there_is_one_only(typed, meant):
    assert closest(typed, KEYS) == meant


@pytest.mark.parametrize(
    "typed",
    [
        *("xyzzy", "foo", "bar", "x", "", "...", "hello.world", "learner.xyz", "learner.momentum"),
        *("learner.scheduler", "learner.epochs", "learner.lr", "network.layers", "replay.speed"),
        *("actors.name", "stop.now", "env.name", "seed.seed.seed", "checkpoint.interval"),
    ],
)
def test_another_word_gets_no_far_fetched_suggestion(typed):
    assert suggest(typed, KEYS) == ""


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("trian", COMMANDS, "train"),
        ("statsu", COMMANDS, "status"),
        ("evalute", COMMANDS, "evaluate"),
        ("fly", COMMANDS, None),
        ("stop", COMMANDS, None),
        ("cartpol", PRESETS, "cartpole"),
        ("cartpole-pixel", PRESETS, "cartpole-pixels"),
        ("pogn", PRESETS, "pong"),
        ("breakout", PRESETS, None),
        ("--inlin", ("--inline", "--address", "--json"), "--inline"),
        ("--batch-size", ("--inline", "--learner.batch-size"), "--learner.batch-size"),
        ("--frobnicate", ("--inline", "--learner.batch-size"), None),
        ("CartPol-v1", ("CartPole-v0", "CartPole-v1", "Acrobot-v1"), "CartPole-v1"),
    ],
)
def test_it_works_for_commands_presets_options_and_environments(typed, known, meant):
    assert closest(typed, known) == meant


def test_the_suggestion_is_written_as_the_user_writes():
    assert suggest("seet", ["seed"], shown="--{}".format) == "; did you mean --seed?"


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [("", "", 0), ("", "ab", 2), ("abc", "abc", 0), ("abc", "acb", 1), ("abcd", "bd", 2)],
)
def test_edits_are_counted(a, b, count):
    assert edits(a, b) == edits(b, a) == count

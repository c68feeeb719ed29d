"""From `env` of the configuration to environments and their specs."""

from __future__ import annotations

import pytest

from actors.environments import environment_spec
from common.config_sections import EnvConfig
from common.types import FrameSpec
from support.acting import (
    COUNTING,
)
from support.environments import ATARI, MINATAR, refusal


def test_an_unknown_id_suggests_a_near_one():
    assert refusal(id="CartPol-v1").endswith("did you mean CartPole-v1?")


def test_an_id_like_no_other_is_refused_without_a_suggestion():
    message = refusal(id="Xyzzy")
    assert "Xyzzy" in message
    assert "did you mean" not in message


def test_the_spec_can_be_had_without_the_environment():
    spec = environment_spec(EnvConfig(id="CartPole-v1", stack=2))
    assert spec.frame == FrameSpec((4,), "float32", 1.0)
    assert spec.stack == 2
    assert spec.num_actions == 2
    assert spec.protocol["env"] == "CartPole-v1"


@pytest.mark.parametrize("env_id", ["CartPole-v1", COUNTING, ATARI, MINATAR])
@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_every_seed_of_a_run_suits_every_environment(env_id, seed):
    assert environment_spec(EnvConfig(id=env_id), seed).num_actions > 1

"""A run continues only from checkpoints of the same game, view and network."""

from __future__ import annotations

import json

import pytest

from common.checkpoint import Checkpoint
from common.config import Config
from common.config_sections import EnvConfig
from common.config_toml import build as build_config
from common.errors import UserError
from deploy.runs.checkpoint_schema import FORMAT, check_restorable
from replay_server.rate_limiter import RateLimiter

OTHER_ENV = {
    "id": "Acrobot-v1", "kwargs": {"sutton_barto_reward": True}, "observation": "pixels",
    "render_width": 300, "render_height": 200, "crop": (0.0, 0.2, 1.0, 0.8), "invert": True,
    "grey": False, "width": 40, "height": 42, "stack": 2, "reward_clip": 1.0,
    "life_loss_ends": True, "sticky_actions": 0.0, "frame_skip": 2, "noop_max": 0,
    "max_episode_frames": 1_000, "wrappers": ("module:Wrapper",), "scale": 0.5,
    "action_mask": "info", "backend": "gymnasium",
}  # fmt: skip


def checkpoint_of(config):
    state = {
        "counters": {}, "learner": {"learner_steps": 1, "version": 0, "target_syncs": 0},
        "score": None, "best_score": None, "shards": 0, "incarnation": 1,
        "limiter": RateLimiter(4.0, 10, 100.0, 1, 1).state(),
        "format": FORMAT, "config": json.loads(config.model_dump_json()),
    }  # fmt: skip
    return Checkpoint("x", "000001-step-00000001", {"learner": {}}, state, {})


@pytest.mark.parametrize("key", ["counters", "learner", "shards", "limiter", "config", "format"])
def test_a_checkpoint_that_lacks_something_is_of_another_version(key):
    checkpoint = checkpoint_of(Config())
    del checkpoint.state[key]
    with pytest.raises(UserError, match="x/000001-step-00000001: is of another version of raydqn"):
        check_restorable(checkpoint, Config())
    older = checkpoint_of(Config())
    older.state["format"] = FORMAT - 1
    with pytest.raises(UserError, match="another version"):
        check_restorable(older, Config())


@pytest.mark.parametrize("key", EnvConfig.model_fields)
def test_a_checkpoint_is_of_the_environment_in_all_that_makes_the_game_and_its_picture(key):
    config = build_config({"env": {key: OTHER_ENV[key]}})
    check_restorable(checkpoint_of(config), config)
    shapes_learning_only = key in ("reward_clip", "life_loss_ends")
    for one, other in ((config, Config()), (Config(), config)):
        if shapes_learning_only:
            check_restorable(checkpoint_of(one), other)
        else:
            with pytest.raises(UserError, match=rf"env\.{key}=.*another environment"):
                check_restorable(checkpoint_of(one), other)


def test_a_key_that_a_checkpoint_does_not_know_yet_had_its_default():
    checkpoint = checkpoint_of(Config())
    del checkpoint.state["config"]["env"]["noop_max"]
    del checkpoint.state["config"]["network"]["dueling"]
    check_restorable(checkpoint, Config())
    with pytest.raises(UserError, match=r"env\.noop_max=0: .*made with 30"):
        check_restorable(checkpoint, build_config({"env": {"noop_max": 0}}))

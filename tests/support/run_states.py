"""States of checkpoints, as a run saves them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from common.config import Config
from deploy.runs.checkpoint_schema import FORMAT
from deploy.runs.statistics import Counters
from replay_server.rate_limiter import RateLimiter


def make_state() -> dict[str, Any]:
    """The state of a run after 60 learner steps, with two shards."""
    return {
        "format": FORMAT,
        "counters": {**dataclasses.asdict(Counters(env_steps=900, learner_steps=60)), "wall_s": 2},
        "score": 12.5,
        "best_score": None,
        "limiter": RateLimiter(4.0, 10, 100.0, 1, 1).state(),
        "incarnation": 3,
        "config": json.loads(Config().model_dump_json()),
        "learner": {"learner_steps": 60, "version": 9, "target_syncs": 2},
        "shards": 2,
        "ran_on": {"inline": True, "address": None},
    }

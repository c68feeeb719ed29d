from __future__ import annotations

import numpy as np
import pytest

from actors.actor import Actor
from actors.environments import environment_spec
from common.handles import InlineHandle
from common.variables import Variables
from deploy.run import make_config
from deploy.sizing import frame_capacity, object_store_bytes
from replay_server.server import ReplayServer


@pytest.mark.parametrize("n_step", [1, 10])
@pytest.mark.parametrize("stack", [1, 4])
def test_frames_last_as_long_as_transitions(n_step, stack):
    config = make_config(
        "cartpole",
        overrides={
            "env": {"id": "MountainCar-v0", "stack": stack},
            "actors": {"count": 1, "envs": 4, "chunk_steps": 16},
            "replay": {"capacity": 1_000},
            "learner": {"n_step": n_step},
        },
    )
    spec = environment_spec(config.env)
    shard = ReplayServer(1_000, spec.frame, stack, 0.6, frame_capacity(config, spec), 1, 0)
    actor = Actor(config, 0, 0, [InlineHandle(shard)], InlineHandle(Variables()))
    actor.collect(600, 0)
    assert shard.summary().inserted > 2_000
    assert shard.summary().size == 1_000, "frames ran out before transitions did"
    shard.check()
    actor.close()


def test_the_object_store_holds_everything_under_way_and_grows_with_it():
    small = make_config("cartpole")
    spec = environment_spec(small.env)
    pong = make_config("pong")
    pong_spec = environment_spec(pong.env)
    floor = object_store_bytes(small, spec)
    assert 128 * 2**20 <= floor < 512 * 2**20
    assert object_store_bytes(pong, pong_spec) > floor
    batch = pong.learner.batch_size * pong.learner.batches_per_sample
    frames = np.prod(pong_spec.frame.shape) * 2 * pong_spec.stack
    under_way = batch * frames * pong.learner.samples_in_flight
    assert object_store_bytes(pong, pong_spec) > under_way

"""Helpers of the tests of batches on a device: shards with content, and a batch group of them."""

from __future__ import annotations

import numpy as np

from common.handles import InlineHandle
from common.types import PAD, Chunk, EnvironmentSpec, FrameSpec
from replay_server.messages import encode_chunk
from replay_server.sampler import ReplaySampler
from support.acting import make_server

PICTURES = EnvironmentSpec(FrameSpec((1, 2, 3), "uint8", 1 / 255), 3, 4, {}, masks_actions=True)
VECTORS = EnvironmentSpec(FrameSpec((5,), "float32", 1.0), 1, 4, {})


def some_chunk(spec, rng, count=12):
    """Made-up experience: stacks padded at random, all columns telling."""
    shape = (count + spec.stack, *spec.frame.shape)
    frames = rng.integers(1, 256, shape).astype(spec.frame.dtype)
    stacks = np.arange(count)[:, None] + np.arange(spec.stack)
    padding = np.arange(spec.stack) < rng.integers(0, spec.stack, (count, 1))
    masks = {}
    if spec.masks_actions:
        masks["next_mask"] = rng.integers(0, 16, (count, 1), np.uint8)
    return Chunk(
        frames=frames,
        columns={
            "observation": np.where(padding, PAD, stacks).astype(np.int32),
            "next_observation": (stacks + 1).astype(np.int32),
            "action": rng.integers(4, size=count).astype(np.int32),
            "reward": rng.normal(size=count).astype(np.float32),
            "discount": rng.choice([0.0, 0.9, 0.81], count).astype(np.float32),
            "version": np.zeros(count, np.int64),
            **masks,
        },
        priority=rng.random(count).astype(np.float32),
    )


def filled_servers(spec, shards):
    rng = np.random.default_rng(1)
    servers = [make_server(spec, shard) for shard in range(shards)]
    for server in servers:
        for _ in range(3):
            server.insert(encode_chunk(some_chunk(spec, rng)))
    return servers


def next_group(spec, shards, batches=3, batch_size=16):
    handles = [InlineHandle(server) for server in filled_servers(spec, shards)]
    rng = np.random.default_rng(0)
    return ReplaySampler(handles, batch_size, batches, 1, 0.4, rng).next_group()

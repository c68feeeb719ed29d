"""How much memory parts need, computed from the configuration before anything is allocated."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import psutil

from common.config import Config
from common.types import EnvironmentSpec, UserError
from replay_server.client import CHUNKS_PER_TURN
from replay_server.table import item_bytes

MEMORY_SHARE = 0.8
"""Of the memory that is available, at the most so much is for the replay memory."""
CGROUP = Path("/sys/fs/cgroup")
LEAST_PACKED_SHARE = 0.01
"""Frames never compress to less than this: so many transitions may fit into given bytes."""


def shard_capacity(config: Config, spec: EnvironmentSpec) -> int:
    """Transitions of one shard.

    Where `replay.capacity` is in bytes and frames are compressed, nobody knows how many will fit:
    this many could, and `shard_max_bytes` pushes out what does not.
    """
    given = config.replay.capacity_bytes
    if given is None:
        assert isinstance(config.replay.capacity, int)
        return math.ceil(config.replay.capacity / config.replay.shards)
    frame_bytes = spec.frame.nbytes * _frames_per_transition(config, spec)
    if config.replay.compression != "none":
        frame_bytes *= LEAST_PACKED_SHARE
    # A tree of a power of two may take twice the bytes of one that just fits.
    item = item_bytes(1 << 20, spec.stack) + 16
    room = given // config.replay.shards - spec.frame.nbytes * _frames_beside(config, spec)
    return max(1, int(room / (item + frame_bytes)))


def shard_max_bytes(config: Config, spec: EnvironmentSpec) -> int | None:
    """Bytes of items and frames in one shard, at the most; None: its capacities bound them."""
    if config.replay.compression == "none":
        return None
    given = config.replay.capacity_bytes
    if given is None:  # frames that do not compress must not fill the machine
        given = min(int(MEMORY_SHARE * available_bytes()), _raw_bytes(config, spec))
    return given // config.replay.shards


def frame_capacity(config: Config, spec: EnvironmentSpec) -> int:
    """Frames one shard has room for, so that they last as long as its transitions do."""
    lasting = math.ceil(shard_capacity(config, spec) * _frames_per_transition(config, spec))
    return lasting + _frames_beside(config, spec)


def _frames_per_transition(config: Config, spec: EnvironmentSpec) -> float:
    """A step brings one frame; the first chunk of a turn also those its windows reach back to."""
    overlap = config.learner.n_step + spec.stack - 1
    turn = config.actors.chunk_steps * CHUNKS_PER_TURN
    # Every episode's last frame is one more; when short episodes need more than this, the oldest
    # transitions go early. Frames of a few bytes cost nothing.
    ends = 1.02 if spec.frame.nbytes > 1024 else 1.25
    return (1 + (overlap / turn if config.replay.shards > 1 else 0)) * ends


def _frames_beside(config: Config, spec: EnvironmentSpec) -> int:
    """Frames beside those of live transitions.

    The oldest chunk may reuse frames of the one before it in its stream, between which every other
    actor's lies; and one chunk is being written.
    """
    actors = math.ceil(config.actors.count / config.replay.shards)
    carried = config.learner.n_step + spec.stack
    return (actors + 1) * config.actors.envs * (config.actors.chunk_steps + 2 * carried)


def _raw_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Bytes of all shards when full, with frames as they are."""
    capacity = shard_capacity(config, spec)
    items = capacity * item_bytes(capacity, spec.stack)
    return config.replay.shards * (items + frame_capacity(config, spec) * spec.frame.nbytes)


def check_memory(config: Config, spec: EnvironmentSpec) -> None:
    """Compare what the replay memory will need with what this machine has, before any is claimed.

    Raises:
        UserError: it does not fit, or `replay.capacity` in bytes holds too few transitions.
    """
    capacity = shard_capacity(config, spec)
    if config.replay.capacity_bytes is not None and config.replay.compression == "none":
        try:
            config.check_capacity(capacity * config.replay.shards)
        except ValueError as error:
            raise UserError(str(error)) from None
    if config.replay.compression == "none":
        need = _raw_bytes(config, spec)
    else:  # frames take what they compress to, up to the bound; items are claimed for certain
        items = capacity * item_bytes(capacity, spec.stack) * config.replay.shards
        need = config.replay.capacity_bytes or items
    available = available_bytes()
    if need > available:
        hint = " or compress frames (replay.compression=lz4)"
        raise UserError(
            f"replay.capacity={config.replay.capacity}: needs {need / 2**30:.1f} GiB of memory, "
            f"this machine has {available / 2**30:.1f} GiB available; set a smaller one"
            f"{hint if config.replay.compression == 'none' and spec.frame.is_picture else ''}"
        )


def available_bytes() -> int:
    """Memory that this process may still claim: the machine's, or its container's if that is less.

    A container's limit (cgroup, version 2 or 1) is not seen by asking the system for its memory.
    """
    available = int(psutil.virtual_memory().available)
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # not there, or "max": no limit
            left = int((CGROUP / limit).read_text()) - int((CGROUP / usage).read_text())
            available = min(available, left)
    return max(0, available)


def object_store_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Shared memory that everything under way at the same time fits into, with as much to spare."""
    c = config
    stacks = 2 * spec.stack * spec.frame.nbytes + 128
    samples = c.learner.batch_size * c.learner.batches_per_sample * stacks
    sampling = samples * (c.learner.samples_in_flight + 1)
    chunk = c.max_chunk_transitions * (2 * spec.frame.nbytes + 128)
    inserting = chunk * c.actors.count * c.actors.inserts_in_flight
    floor = 128 * 2**20  # Ray refuses less than 75 MiB; weights of several versions lie here too
    return floor + 2 * (sampling + inserting)

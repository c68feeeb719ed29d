"""How much memory parts need, computed from the configuration before anything is allocated."""

from __future__ import annotations

import math
import socket
from contextlib import suppress

import psutil

from common.config import Config
from common.config_network import NetworkConfig
from common.control_groups import CGROUP, OWN_GROUPS, group_folders
from common.errors import UserError
from common.item import item_of
from common.network_shapes import is_own, parameter_count
from common.text import counted
from common.types import EnvironmentSpec
from replay_server.codec import GROUP_FRAMES
from replay_server.frames import GROUP_BYTES, MAX_ROWS
from replay_server.table_items import item_bytes
from replay_server.writer import CHUNKS_PER_TURN

MEMORY_SHARE = 0.8
"""Of the memory that is free, at the most so much is for the replay memory and its messages."""
V2_FILES = "memory.max", "memory.current"
V1_FILES = "memory.limit_in_bytes", "memory.usage_in_bytes"
ACTOR_BYTES = 128 << 20
"""What the process of an actor takes for itself at the least: Python, torch, Ray."""
PACKED_SHARE = 0.02
"""What compressed frames are expected to take of their size, at least: with it the number of
transitions that fit into given bytes is computed. Larger frames fill the bytes with fewer."""
PACKED_ROW_BYTES = 16
"""Of every row for a compressed frame, used or not: its place in a list, its numbers."""


def shard_capacity(config: Config, spec: EnvironmentSpec) -> int:
    """Transitions of one shard.

    Where `replay.capacity` is in bytes and frames are compressed, the number that fits is unknown
    in advance. The result assumes that frames take `PACKED_SHARE` of their size; if they take
    more, `shard_frame_bytes` evicts the oldest.
    """
    given = config.replay.capacity_bytes
    if given is None:
        assert isinstance(config.replay.capacity, int)
        return math.ceil(config.replay.capacity / config.replay.shards)
    item = float(item_bytes(1 << 20, item_of(spec)))
    frame_bytes = float(spec.frame.nbytes)
    if config.replay.compression != "none":
        item += PACKED_ROW_BYTES * _frames_per_transition(config, spec)
        frame_bytes *= PACKED_SHARE
    # A tree of a power of two may take up to twice the bytes of one that just fits.
    item += 9
    room = given // config.replay.shards - frame_bytes * _frames_beside(config, spec)
    capacity = room / (item + frame_bytes * _frames_per_transition(config, spec))
    return min(max(1, int(capacity)), MAX_ROWS // 2)


def shard_frame_bytes(config: Config, spec: EnvironmentSpec) -> int | None:
    """Bytes of compressed frames in one shard, at the most; None: capacities bound them."""
    if config.replay.compression == "none":
        return None
    given = config.replay.capacity_bytes
    if given is None:  # frames that do not compress must not fill the machine
        frames = config.replay.shards * _incompressible_bytes(frame_capacity(config, spec), spec)
        given = min(int(MEMORY_SHARE * available_bytes()), frames + _item_bytes(config, spec))
    return max(1, (given - _item_bytes(config, spec)) // config.replay.shards)


def frame_capacity(config: Config, spec: EnvironmentSpec) -> int:
    """Frames one shard has room for, so that they last as long as its transitions do."""
    lasting = math.ceil(shard_capacity(config, spec) * _frames_per_transition(config, spec))
    return min(lasting + _frames_beside(config, spec), MAX_ROWS)


def _frames_per_transition(config: Config, spec: EnvironmentSpec) -> float:
    """A step brings one frame; the first chunk of a turn also those its windows reach back to."""
    overlap = config.learner.n_step + spec.stack - 1
    turn = config.actors.chunk_steps * CHUNKS_PER_TURN
    # Every episode's last frame is one more; when short episodes need more than this, the oldest
    # transitions go early. Frames of a few bytes cost nothing.
    rows = 1.02 if spec.frame.nbytes > 1024 else 1.25
    rows *= 1 + (overlap / turn if config.replay.shards > 1 else 0)
    if config.replay.compression != "none":  # a chunk's last group takes the rows of a full one
        frames = config.actors.envs * config.actors.chunk_steps
        rows *= (frames + GROUP_FRAMES - 1) / frames
    return rows


def _frames_beside(config: Config, spec: EnvironmentSpec) -> int:
    """Frames beside those of live transitions.

    The oldest chunk may reuse frames of the one before it in its stream, between which every other
    actor's lies; and one chunk is being written.
    """
    actors = math.ceil(config.actors.count / config.replay.shards)
    return (actors + 1) * _chunk_frames(config, spec)


def _chunk_frames(config: Config, spec: EnvironmentSpec) -> int:
    """Frames of the largest chunk."""
    carried = config.learner.n_step + spec.stack
    return config.actors.envs * (config.actors.chunk_steps + 2 * carried)


def _incompressible_bytes(frames: int, spec: EnvironmentSpec) -> int:
    """Bytes of so many compressed frames when compression gains nothing: codecs add a little."""
    group = GROUP_FRAMES * spec.frame.nbytes
    return -(-frames // GROUP_FRAMES) * (int(1.01 * group) + 128 + GROUP_BYTES)


def _item_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Bytes of all shards without their frames; what is claimed for certain, however they fill."""
    capacity = shard_capacity(config, spec)
    shard = capacity * item_bytes(capacity, item_of(spec))
    if config.replay.compression != "none":
        shard += frame_capacity(config, spec) * PACKED_ROW_BYTES
    return config.replay.shards * shard


def check_memory(
    config: Config, spec: EnvironmentSpec, on_ray: bool = False, share: float = 1.0
) -> None:
    """Compare what the replay memory will need with what this machine has, before any is claimed.

    Args:
        config: of the run.
        spec: of its environment.
        on_ray: messages then lie in shared memory, which is claimed too.
        share: of the replay memory that lies on this machine.

    Raises:
        UserError: it does not fit, or `replay.capacity` in bytes holds too little.
    """
    replay = config.replay
    if replay.capacity_bytes is not None:
        try:
            config.check_capacity(shard_capacity(config, spec) * replay.shards)
        except ValueError as error:
            raise UserError(str(error)) from None
    need = memory_need(config, spec, on_ray, share)
    available = int(MEMORY_SHARE * available_bytes())
    if need > available:
        hint = " or compress frames (replay.compression=lz4)"
        raise UserError(
            f"replay.capacity={replay.capacity}: needs {need / 2**30:.1f} GiB of memory, but "
            f"{available / 2**30:.1f} GiB ({MEMORY_SHARE:.0%} of what {socket.gethostname()} has "
            f"free) may be used; set a smaller one"
            f"{hint if replay.compression == 'none' and spec.frame.is_picture else ''}"
        )
    # Frames that do not compress at all: the largest chunk must fit even so.
    largest = _incompressible_bytes(_chunk_frames(config, spec), spec)
    room = shard_frame_bytes(config, spec)
    if room is not None and room < largest:
        raise UserError(
            f"replay.capacity={replay.capacity}: leaves {counted(room, 'byte')} for frames in each "
            f"shard (replay.shards={replay.shards}), but the largest message of an actor may bring "
            f"{largest:,}; set a larger one, or fewer replay.shards or actors.chunk_steps"
        )


def memory_need(
    config: Config, spec: EnvironmentSpec, on_ray: bool = False, share: float = 1.0
) -> int:
    """Bytes that the replay memory and its messages will need; see `check_memory`."""
    replay, need = config.replay, _item_bytes(config, spec)
    if replay.compression == "none":
        need += replay.shards * frame_capacity(config, spec) * spec.frame.nbytes
    elif replay.capacity_bytes is not None:
        need = replay.capacity_bytes
    return int(need * share) + (object_store_bytes(config, spec) if on_ray else 0)


def available_bytes() -> int:
    """Memory that this process may still claim: the machine's, or its container's if that is less.

    A container's limit (control group, version 2 or 1) is not seen by asking the system for its
    memory. What a group holds of files can be given back and counts as free.
    """
    available = int(psutil.virtual_memory().available)
    for folder, is_v2 in group_folders("memory", OWN_GROUPS, CGROUP):
        limit, usage = V2_FILES if is_v2 else V1_FILES
        with suppress(OSError, ValueError):  # not there, or "max": no limit
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            files = stat.get("inactive_file", stat.get("total_inactive_file", "0"))
            available = min(available, left + int(files))
    return max(0, available)


def object_store_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Shared memory that everything under way at the same time fits into, with as much to spare."""
    c = config
    stacks = 2 * spec.stack * spec.frame.nbytes + spec.mask_bytes + 128
    samples = c.learner.batch_size * c.learner.batches_per_sample * stacks
    sampling = samples * (c.learner.samples_in_flight + 1)
    chunk = c.max_chunk_transitions * (2 * spec.frame.nbytes + spec.mask_bytes + 128)
    inserting = chunk * c.actors.count * c.actors.inserts_in_flight
    floor = 128 * 2**20  # Ray refuses less than 75 MiB
    # The learner's state on its way to a checkpoint, or to another learner; weights are a quarter
    # of one, and those of several versions lie here too.
    return floor + 2 * (sampling + inserting + learner_bytes(config, spec))


def learner_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Bytes of a learner's state: policy net, target net, and two moments of each parameter."""
    return 4 * 4 * _parameters(config.network, spec)


def _parameters(network: NetworkConfig, spec: EnvironmentSpec) -> int:
    if not is_own(network.kind):
        return parameter_count(network, spec)
    from common.networks import make_network  # imports torch

    return sum(tensor.numel() for tensor in make_network(spec, network).state_dict().values())

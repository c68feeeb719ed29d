from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import psutil
import pytest

from actors.actor import Actor
from actors.environments import environment_spec
from common.errors import UserError
from common.handles import InlineHandle
from common.item import item_of
from common.network_shapes import parameter_count
from common.networks import make_network
from common.types import EnvironmentSpec, FrameSpec
from common.weights import WeightStore
from deploy.launch.presets import make_config
from deploy.resources import memory as sizing
from deploy.resources.memory import (
    PACKED_ROW_BYTES,
    available_bytes,
    check_memory,
    frame_capacity,
    object_store_bytes,
    shard_capacity,
    shard_frame_bytes,
)
from replay_server.server import ReplayServer
from replay_server.table_items import item_bytes


@pytest.mark.parametrize("n_step", [1, 10])
@pytest.mark.parametrize("stack", [1, 4])
def test_frames_last_as_long_as_transitions(n_step, stack):
    config = make_config(
        "cartpole",
        overrides={
            "network": {"hidden": []},
            "env": {"id": "MountainCar-v0", "stack": stack},
            "actors": {"count": 1, "envs": 4, "chunk_steps": 16},
            "replay": {"capacity": 1_000},
            "learner": {"n_step": n_step},
        },
    )
    spec = environment_spec(config.env)
    shard = ReplayServer(
        *(shard_capacity(config, spec), spec.frame, item_of(spec), 0.6),
        *(frame_capacity(config, spec), 1, 0),
    )
    actor = Actor(config, 0, 0, [InlineHandle(shard)], InlineHandle(WeightStore()))
    actor.collect(600, 0)
    assert shard.summary().inserted > 2_000
    assert shard.summary().size == 1_000, "frames ran out before transitions did"
    assert shard.summary().orphaned == 0, "frames went that the next chunk reuses"
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


@pytest.mark.parametrize(
    ("kind", "shape", "dueling"),
    [
        ("mlp", (4,), False),
        ("mlp", (1, 9, 7), True),
        ("notebook", (4,), False),
        ("nature-cnn", (3, 84, 61), False),
        ("nature-cnn", (1, 36, 40), True),
        ("small-cnn", (1, 42, 42), True),
        ("minatar-cnn", (7, 10, 10), False),
        ("impala-cnn", (1, 42, 37), True),
    ],
)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_parameters_are_counted_as_they_are_made(kind, shape, dueling, layer_norm):
    spec = EnvironmentSpec(FrameSpec(shape, "uint8", 1 / 255), 3, 5, {})
    network = {"kind": kind, "dueling": dueling, "hidden": [37, 11]}
    network["layer_norm"] = layer_norm and kind != "notebook"  # which has none
    config = make_config("cartpole", overrides={"network": network})
    made = make_network(spec, config.network)
    assert parameter_count(config.network, spec) == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("head", ["value", "categorical", "quantile", "implicit-quantile"])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_parameters_of_each_head_are_counted(head, dueling, noisy):
    spec = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), 1, 3, {})
    network = {"head": head, "dueling": dueling, "noisy": noisy, "hidden": [6, 5]}
    config = make_config("cartpole", overrides={"network": {**network, "layer_norm": noisy}})
    made = make_network(spec, config.network)
    assert parameter_count(config.network, spec) == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("shape", [(4,), (1, 3, 3)])
def test_sizes_of_a_network_that_cannot_be_made_are_no_error(shape):
    # The network itself refuses such frames, later and in one line.
    spec = EnvironmentSpec(FrameSpec(shape, "float32", 1.0), 1, 2, {})
    config = make_config("cartpole", overrides={"network": {"kind": "nature-cnn"}})
    assert object_store_bytes(config, spec) > 0


def test_the_object_store_holds_the_state_of_a_large_learner_twice():
    config = make_config("cartpole", overrides={"network": {"hidden": [4096, 4096]}})
    spec = environment_spec(config.env)
    parameters = sum(p.numel() for p in make_network(spec, config.network).parameters())
    state_bytes = 4 * parameters * 4  # policy, target, two moments
    assert object_store_bytes(config, spec) >= 2 * state_bytes + 128 * 2**20


PONG = EnvironmentSpec(FrameSpec((1, 84, 84), "uint8", 1 / 255), 4, 6, {})


def pong(**replay):
    return make_config("pong", overrides={"replay": replay})


def test_pictures_take_little_more_than_a_frame_for_each_transition():
    config = pong(capacity=100_000)
    frames = frame_capacity(config, PONG) * PONG.frame.nbytes
    columns = 100_000 * item_bytes(100_000, item_of(PONG))
    assert (frames + columns) / 100_000 < 7_400


def test_many_actors_on_few_shards_get_room_for_the_frames_that_their_next_chunks_reuse():
    shard = []
    config = make_config(
        "cartpole",
        overrides={
            "network": {"hidden": []},
            "env": {"id": "MountainCar-v0", "stack": 3},
            "actors": {"count": 24, "envs": 2, "chunk_steps": 8},
            "replay": {"capacity": 400, "shards": 2},
            "learner": {"batch_size": 32, "warmup_transitions": 100},
        },
    )
    spec = environment_spec(config.env)
    capacity, frames = shard_capacity(config, spec), frame_capacity(config, spec)
    for index in range(2):
        shard.append(ReplayServer(capacity, spec.frame, item_of(spec), 0.6, frames, 1, index))
    handles = [InlineHandle(server) for server in shard]
    actors = [Actor(config, i, 0, handles, InlineHandle(WeightStore())) for i in range(24)]
    for _ in range(8):
        for actor in actors:
            actor.collect(8, 0)
    for server in shard:
        server.check()
        assert server.summary().evicted > 1_000
        assert (server.summary().size, server.summary().orphaned) == (200, 0)
    for actor in actors:
        actor.close()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1 GiB", 2**30), ("1GiB", 2**30), ("1.5 MB", 1_500_000), ("2 kb", 2_000), (" 3 TB ", 3e12)],
)
def test_a_capacity_in_bytes_is_a_number_with_a_unit(text, wanted):
    assert pong(capacity=text).replay.capacity_bytes == wanted


@pytest.mark.parametrize("text", ["0 GB", "1e9 B", "5", "much", "GiB", "-1 GB", "1 XB"])
def test_a_capacity_that_is_neither_number_nor_bytes_is_refused(text):
    with pytest.raises(UserError, match=f"capacity={text!r}: must be a whole number of trans"):
        pong(capacity=text)


@pytest.mark.parametrize("shards", [1, 3])
def test_as_many_transitions_as_fit_into_given_bytes(shards):
    config = pong(capacity="1 GiB", shards=shards)
    capacity = shard_capacity(config, PONG) * shards
    bytes_ = shards * (
        shard_capacity(config, PONG) * item_bytes(shard_capacity(config, PONG), item_of(PONG))
        + frame_capacity(config, PONG) * PONG.frame.nbytes
    )
    assert 0.97 * 2**30 < bytes_ <= 2**30
    assert 140_000 < capacity < 151_000
    assert shard_frame_bytes(config, PONG) is None


@pytest.mark.parametrize("shards", [1, 2])
def test_compressed_frames_and_all_items_stay_within_given_bytes(shards):
    config = pong(capacity="1 GiB", shards=shards, compression="lz4")
    capacity = shard_capacity(config, PONG)
    assert capacity * shards > 10 * shard_capacity(pong(capacity="1 GiB"), PONG)
    items = (
        capacity * item_bytes(capacity, item_of(PONG))
        + frame_capacity(config, PONG) * PACKED_ROW_BYTES
    )
    frames = shard_frame_bytes(config, PONG)
    assert 0.99 * 2**30 < shards * (items + frames) <= 2**30
    # Frames of Pong take less than this (`raydqn bench replay`): the transitions all fit.
    assert frames / capacity > 0.02 * PONG.frame.nbytes


def test_frames_that_do_not_compress_must_not_fill_the_machine(monkeypatch):
    config = pong(capacity=10**6, shards=4, compression="lz4")
    free = 10**9
    monkeypatch.setattr(sizing, "available_bytes", lambda: free)
    items = (
        250_000 * item_bytes(250_000, item_of(PONG))
        + frame_capacity(config, PONG) * PACKED_ROW_BYTES
    )
    assert shard_frame_bytes(config, PONG) == (8 * 10**8 - 4 * items) // 4
    free = 10**12
    frames = frame_capacity(config, PONG) * PONG.frame.nbytes
    assert frames < shard_frame_bytes(config, PONG) < 1.02 * frames, "as many as fit as they are"


@pytest.mark.parametrize(
    ("envs", "chunk_steps", "capacity"),
    [(1, 1, 300), (2, 4, 600), (4, 4, 600), (8, 64, 1_200)],
)
def test_groups_that_are_not_full_cost_rows_but_no_transitions(envs, chunk_steps, capacity):
    config = make_config(
        "cartpole",
        overrides={
            "network": {"hidden": []},
            "env": {"id": "MountainCar-v0", "stack": 2},
            "actors": {"count": 1, "envs": envs, "chunk_steps": chunk_steps},
            "replay": {"capacity": capacity, "compression": "lz4"},
            "learner": {"batch_size": 32, "warmup_transitions": 100},
        },
    )
    spec = environment_spec(config.env)
    shard = ReplayServer(
        *(shard_capacity(config, spec), spec.frame, item_of(spec), 0.6),
        *(frame_capacity(config, spec), 1, 0, 0),
        *("lz4", shard_frame_bytes(config, spec)),
    )
    actor = Actor(config, 0, 0, [InlineHandle(shard)], InlineHandle(WeightStore()))
    actor.collect(5 * capacity // (2 * envs), 0)
    assert shard.summary().inserted > 2 * capacity
    assert shard.summary().size == capacity
    shard.check()
    actor.close()


def test_a_memory_that_the_machine_does_not_have_is_refused_before_any_is_claimed(monkeypatch):
    monkeypatch.setattr(sizing, "available_bytes", lambda: 2.5 * 2**30)
    check_memory(pong(capacity=200_000), PONG)
    with pytest.raises(UserError) as caught:
        check_memory(pong(capacity=10_000_000), PONG)
    message = str(caught.value)
    assert message.startswith("replay.capacity=10000000: needs 6")
    assert f"2.0 GiB (80% of what {socket.gethostname()} has free) may be used" in message
    assert "replay.compression=lz4" in message
    check_memory(pong(capacity=10_000_000, compression="lz4"), PONG)
    with pytest.raises(UserError, match=r"replay.capacity=3 GiB: needs 3\.0 GiB"):
        check_memory(pong(capacity="3 GiB", compression="lz4"), PONG)
    # On Ray, what is under way lies in memory too.
    just = pong(capacity="2 GiB")
    check_memory(just, PONG)
    with pytest.raises(UserError, match="needs 2"):
        check_memory(just, PONG, on_ray=True)


def test_given_bytes_too_few_for_the_largest_message_are_refused():
    config = pong(capacity="6 MB", compression="lz4")
    with pytest.raises(UserError, match=r"leaves .* bytes for frames .* largest message"):
        check_memory(config, PONG)


def test_bytes_that_hold_too_few_transitions_are_refused_like_a_number_of_them():
    with pytest.raises(UserError, match=r"warmup_transitions=5000: must not exceed .*10 MB \("):
        check_memory(pong(capacity="10 MB"), PONG)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("nested", [False, True])
def test_a_containers_limit_counts(tmp_path, monkeypatch, version, nested):
    free = available_bytes()
    assert 0 < free <= psutil.virtual_memory().total
    group = tmp_path / ("memory" if version == 1 else "") / ("job/step" if nested else "")
    group.mkdir(parents=True, exist_ok=True)
    limit = group / ("memory.max" if version == 2 else "memory.limit_in_bytes")
    usage = group / ("memory.current" if version == 2 else "memory.usage_in_bytes")
    limit.write_text("500000000\n")
    usage.write_text("100000000\n")
    # What a group holds of files goes when memory is needed.
    (group / "memory.stat").write_text("anon 60000000\ninactive_file 40000000\n")
    own = tmp_path / "own"
    own.write_text("0::/job/step\n" if version == 2 else "4:cpu,memory:/job/step\n3:pids:/job\n")
    monkeypatch.setattr(sizing, "CGROUP", tmp_path)
    monkeypatch.setattr(sizing, "OWN_GROUPS", own)
    assert available_bytes() == 440_000_000
    limit.write_text("max\n")
    assert available_bytes() > 440_000_000


def test_action_masks_are_counted():
    config = make_config("pong", overrides={"replay": {"capacity": 30_000, "shards": 1}})
    masked = replace(PONG, masks_actions=True)
    assert masked.mask_bytes == 1
    columns = sizing._item_bytes(config, masked) - sizing._item_bytes(config, PONG)
    assert columns == 30_000
    assert object_store_bytes(config, masked) > object_store_bytes(config, PONG)
    given = make_config("pong", overrides={"replay": {"capacity": "20 MiB"}})
    many = replace(masked, num_actions=4096)
    assert shard_capacity(given, many) < shard_capacity(given, masked)

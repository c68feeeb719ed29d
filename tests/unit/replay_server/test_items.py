"""The columns of an item decide the form of rows, messages, checkpoints and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common import wire
from common.checkpoint import entry_of
from common.errors import CheckpointError, WireError
from common.handles import InlineHandle
from common.item import Column, ItemSpec, transition_item
from common.storage import open_storage
from common.types import Chunk
from learner.prefetch import Stager
from replay_server.layout import item_of_layout, layout_of_item
from replay_server.messages import check_sample, decode_chunk, decode_sample, encode_chunk
from replay_server.sampler import ReplaySampler
from replay_server.server import ReplayServer
from replay_server.shard_checkpoint import ShardSaver
from replay_server.shard_restore import ShardRestore, restore_shard
from replay_server.table import Table
from support.replay import PICTURE, random_chunk
from support.shards import contents, fresh_url

SEQUENCE = ItemSpec(
    observations=(Column("observation", "int32", (4, 2)),),
    values=(
        Column("action", "int16", (3,)),
        Column("reward", "float32", (3,)),
        Column("state", "float32", (2, 5)),
        Column("version", "int64"),
    ),
)
"""Three steps, four observations of two frames, and a recurrent network's first state."""


def sequence_chunk(rng, count=6, frames=9, version=0):
    columns = {
        "observation": rng.integers(-1, frames, (count, 4, 2), np.int32),
        "action": rng.integers(0, 9, (count, 3)).astype(np.int16),
        "reward": rng.normal(size=(count, 3)).astype(np.float32),
        "state": rng.normal(size=(count, 2, 5)).astype(np.float32),
        "version": version + np.arange(count),
    }
    pixels = rng.integers(0, 256, (frames, *PICTURE.shape), np.uint8)
    return Chunk(pixels, columns, rng.random(count).astype(np.float32))


def table_of(item=SEQUENCE, capacity=40):
    return Table(capacity, PICTURE, item, 0.6, 200, np.random.default_rng(0))


def test_an_item_of_longer_columns_comes_back_bit_for_bit():
    rng = np.random.default_rng(0)
    server = ReplayServer(40, PICTURE, SEQUENCE, 0.6, 200, 1, 0)
    chunks = [sequence_chunk(rng, version=6 * number) for number in range(3)]
    for chunk in chunks:
        server.insert(encode_chunk(chunk))
    sample = decode_sample(server.sample(64))
    assert {column.name for column in SEQUENCE.columns} == set(sample.columns)
    for row, key in enumerate(sample.key.tolist()):
        chunk, place = chunks[key // 6], key % 6
        padded = np.concatenate((chunk.frames, np.zeros_like(chunk.frames[:1])))
        stacks = padded[chunk["observation"][place]]
        assert np.array_equal(sample.frames[sample["observation"][row]], stacks)
        for column in SEQUENCE.values:
            assert np.array_equal(sample[column.name][row], chunk[column.name][place])
    server.check()


def test_batches_on_the_device_have_the_items_columns():
    rng = np.random.default_rng(0)
    servers = [ReplayServer(40, PICTURE, SEQUENCE, 0.6, 200, 1, shard) for shard in range(2)]
    for server in servers:
        server.insert(encode_chunk(sequence_chunk(rng)))
    handles = [InlineHandle(server) for server in servers]
    group = ReplaySampler(handles, 8, 2, 1, 0.4, np.random.default_rng(0)).next_group()
    picked = Stager(torch.device("cpu"), SEQUENCE).stage(group).picked(1)
    assert set(picked) == {"observation", "action", "reward", "state"}
    assert picked["observation"].shape == (8, 4, 2, *PICTURE.shape)
    assert picked["state"].shape == (8, 2, 5)
    items = [(sample, row) for sample in group.samples for row in range(len(sample))]
    for got, (sample, row) in enumerate(items[r] for r in group.rows[1]):
        stacks = sample.frames[sample["observation"][row]]
        assert np.array_equal(picked["observation"][got].numpy(), stacks)
        assert np.array_equal(picked["reward"][got].numpy(), sample["reward"][row])


@pytest.mark.parametrize("capacities", [(40,), (64,), (9, 9)])  # as it was, and dealt out again
def test_a_checkpoint_keeps_the_items_columns(capacities):
    rng, url, table = np.random.default_rng(0), fresh_url(), table_of()
    for number in range(3):
        table.insert(sequence_chunk(rng, version=6 * number))
    saver = ShardSaver(table, PICTURE)
    saver.begin(url, "shard-0.rdqn", background=False)
    restored = {}
    for part, capacity in enumerate(capacities):
        again = table_of(capacity=capacity)
        origin = ShardRestore(url, ("shard-0.rdqn",), saver.outcome(), part, len(capacities))
        restore_shard(again, ShardSaver(again, PICTURE), PICTURE, origin)
        again.check()
        restored |= contents(again)
    assert len(restored) == 18
    for version, (whole, rest, mass, _) in contents(table).items():
        assert restored[version][:2] == (whole, rest)
        assert restored[version][2] == pytest.approx(mass)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (transition_item(2), "items with"),
        (ItemSpec(SEQUENCE.observations, SEQUENCE.values[1:]), "items with"),
        (
            ItemSpec(SEQUENCE.observations, (*SEQUENCE.values, Column("x", "int8"))),
            r"items with no other columns and without x int8 \(\)",
        ),
    ],
)
def test_a_checkpoint_of_other_items_is_refused(other, said):
    url, table = fresh_url(), table_of()
    table.insert(sequence_chunk(np.random.default_rng(0)))
    saver = ShardSaver(table, PICTURE)
    saver.begin(url, "shard-0.rdqn", background=False)
    again = table_of(other)
    with pytest.raises(CheckpointError, match=rf"shard-0.rdqn: cannot be understood \({said}"):
        restore_shard(
            again,
            ShardSaver(again, PICTURE),
            PICTURE,
            ShardRestore(url, ("shard-0.rdqn",), saver.outcome(), 0, 1),
        )


@pytest.mark.parametrize("name", [c.name for c in transition_item(2).columns])
@pytest.mark.parametrize("fault", ["missing", "short row", "another type", "float64"])
def test_a_chunk_whose_columns_are_not_the_items_changes_nothing(name, fault):
    table = table_of(transition_item(2))
    chunk = random_chunk(np.random.default_rng(0), 4, 5)
    column = chunk.columns.pop(name)
    if fault != "missing":
        chunk.columns[name] = {
            "short row": column[..., None],
            "another type": column.view(np.uint8),
            "float64": column.astype(np.float64),
        }[fault]
    with pytest.raises(ValueError, match=f"column '{name}'"):
        table.insert(chunk)
    assert len(table) == table.frames.written == 0
    chunk.columns[name] = column
    table.insert(decode_chunk(encode_chunk(chunk)))
    table.check()


def test_a_column_that_the_items_lack_is_refused_by_name():
    chunk = random_chunk(np.random.default_rng(0), 4, 5)
    chunk.columns["reward2"] = chunk["reward"]
    with pytest.raises(ValueError, match="with column 'reward2'"):
        table_of(transition_item(2)).insert(chunk)


@pytest.mark.parametrize("item", [transition_item(4), transition_item(1, 3), SEQUENCE])
def test_a_layout_is_read_as_it_was_written(item):
    columns, meta = wire.decode(wire.encode({}, layout_of_item(item)))
    assert not columns
    assert item_of_layout(meta) == item


def layout(observations=(("o", "int32", [2]),), values=(("action", "int32", []),)):
    return {"observations": observations, "values": values}


@pytest.mark.parametrize(
    "changed",
    [
        {"stack": 0},
        {"stack": 1 << 20},
        {"stack": 2, "mask_bytes": 1 << 40},
        {},
        layout(observations=[]),
        layout(values=[]),
        layout(observations=[["o", "int32", [0]]]),
        layout(observations=[["o", "int32", []]]),
        layout(observations=[["o", "int64", [2]]]),
        layout(observations=[["o", "int32", [2]], ["p", "int32", [3]]]),
        layout(observations=3, values=4),
        layout(values=[["a", "nonsense", []]]),
        # These end numpy's parser in other errors, one of them the interpreter.
        *(layout(values=[["a", text, []]]) for text in ("M8[1s/0]", "(,)f4", "01f4", "(2,3", "O")),
        layout(values=[["a", ["int8"], []]]),
        layout(values=[["a", "int8", [-1]]]),
        layout(values=[["a", "int8", []], ["a", "int8", []]]),
        layout(values=[["stacks", "int8", []]]),
        layout(values=[["a", "int64", [1 << 61]]]),
        layout(values=[["a", "int64", [1 << 10, 1 << 10, 1 << 10]]]),
        layout(values=[["a", "int64", [0] * 99]]),
        layout(values=[["next_mask", "uint8", []]]),
        layout(values=[["a"]]),
    ],
)
def test_a_checkpoint_with_an_impossible_item_is_one_clear_error(changed):
    url, table = fresh_url(), table_of()
    table.insert(sequence_chunk(np.random.default_rng(0)))
    saver = ShardSaver(table, PICTURE)
    saver.begin(url, "shard-0.rdqn", background=False)
    storage = open_storage(url)
    columns, meta = wire.decode(storage.read("shard-0.rdqn"))
    for name in ("stack", "mask_bytes", "observations", "values"):
        meta["layout"].pop(name, None)
    data = wire.encode(columns, {**meta, "layout": meta["layout"] | changed})
    storage.write("shard-0.rdqn", data)
    again = table_of()
    origin = ShardRestore(url, ("shard-0.rdqn",), {"shard-0.rdqn": entry_of(data)}, 0, 1)
    with pytest.raises(CheckpointError, match=r"shard-0\.rdqn: cannot be understood"):
        restore_shard(again, ShardSaver(again, PICTURE), PICTURE, origin)
    assert len(again) == 0


@pytest.mark.parametrize("fault", ["missing", "more", "short", "another type"])
def test_a_sample_whose_columns_are_not_the_items_is_refused(fault):
    table = table_of(transition_item(2))
    table.insert(random_chunk(np.random.default_rng(0), 4, 5))
    sample = table.sample(3)
    check_sample(sample, transition_item(2))
    column = sample.columns.pop("reward")
    if fault == "more":
        sample.columns |= {"reward": column, "reward2": column}
    elif fault != "missing":
        sample.columns["reward"] = column[:2] if fault == "short" else column.astype(np.float64)
    with pytest.raises(WireError, match=r"sample (without|with|column).*reward"):
        check_sample(sample, transition_item(2))

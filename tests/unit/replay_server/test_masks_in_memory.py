"""Action masks on their way through messages, table and checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common import wire
from common.errors import CheckpointError
from common.handles import InlineHandle
from common.item import transition_item
from common.storage import open_storage
from replay_server.messages import decode_chunk, encode_chunk
from replay_server.sampler import ReplaySampler
from replay_server.table_items import item_bytes
from support.acting import make_server, vector_spec
from support.replay import VECTOR, columns_of, make_table, random_chunk
from support.shards import TwinnedTable, contents, fresh_url

SPEC = replace(vector_spec(3, 11), masks_actions=True)


def masked_chunk(count=6, mask_bytes=2, seed=0):
    return random_chunk(
        np.random.default_rng(seed), count, count, 1, VECTOR, mask_bytes=mask_bytes
    )  # fmt: skip


def test_a_mask_survives_the_wire_and_is_not_there_without_one():
    chunk = masked_chunk()
    again = decode_chunk(encode_chunk(chunk))
    assert np.array_equal(again["next_mask"], chunk["next_mask"])
    plain = masked_chunk(mask_bytes=0)
    assert "next_mask" not in columns_of(plain)


@pytest.mark.parametrize(
    ("mask_bytes", "mask", "said"),
    [
        (2, None, "without column 'next_mask'"),
        (0, np.zeros((6, 2), np.uint8), "with column 'next_mask'"),
        (2, np.zeros((6, 3), np.uint8), r"of uint8 \(6, 3\): must be uint8 \(6, 2\)"),
        (2, np.zeros((6, 2), bool), r"of bool \(6, 2\): must be uint8 \(6, 2\)"),
        (2, np.zeros(6, np.uint8), r"of uint8 \(6,\): must be uint8 \(6, 2\)"),
    ],
)
def test_a_table_refuses_masks_that_are_not_its_own(mask_bytes, mask, said):
    table = make_table(spec=VECTOR, stack=1, mask_bytes=mask_bytes)
    chunk = masked_chunk(mask_bytes=0)
    if mask is not None:
        chunk.columns["next_mask"] = mask
    with pytest.raises(ValueError, match=said):
        table.insert(chunk)
    assert len(table) == 0


def test_a_row_has_no_room_for_a_mask_that_is_not_there():
    plain = transition_item(2)
    assert plain.dtype.itemsize == 36
    assert "next_mask" not in plain.dtype.names
    assert item_bytes(1000, transition_item(2, 3)) == item_bytes(1000, plain) + 3
    assert "next_mask" not in make_table(spec=VECTOR, stack=1).sample(0).columns


def test_masks_of_all_shards_reach_the_batch_of_their_items():
    servers = [make_server(SPEC, shard) for shard in range(2)]
    for seed, server in enumerate(servers):
        chunk = masked_chunk(40, seed=seed)
        chunk["next_mask"][:, 0] = chunk["action"] % 256  # so that each item tells its mask
        chunk["next_mask"][:, 1] = seed
        server.insert(encode_chunk(chunk))
    handles = [InlineHandle(server) for server in servers]
    group = ReplaySampler(handles, 16, 3, 1, 0.4, np.random.default_rng(0)).next_group()
    for sample in group.samples:
        assert np.array_equal(sample["next_mask"][:, 0], sample["action"] % 256)
        assert (sample["next_mask"][:, 1] == sample.summary.shard).all()
    group.release()
    assert all(len(sample["next_mask"]) == 0 for sample in group.samples)


def saved(url, **named):
    twinned = TwinnedTable(3, capacity=20, frame_capacity=60, **named).advance(12)
    return twinned, twinned.save(url)


def test_a_checkpoint_without_masks_is_the_one_of_versions_before_them():
    url = fresh_url()
    _, origin = saved(url)
    columns, meta = wire.decode(open_storage(url).read(origin.shards[0]))
    assert "item.next_mask" not in columns
    assert "mask_bytes" not in meta["layout"]


@pytest.mark.parametrize("capacity", [20, 64])  # as it was, and dealt out again
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 3)])
def test_a_checkpoint_of_other_masks_is_refused(capacity, before, after):
    twinned, origin = saved(fresh_url(), mask_bytes=before)
    has, wanted = (
        f"action masks of {count} bytes" if count else "no action masks"
        for count in (before, after)
    )
    with pytest.raises(CheckpointError, match=rf"\({has}: must have {wanted}\)"):
        twinned.restored(origin, mask_bytes=after, capacity=capacity)


def test_a_checkpoint_with_masks_is_restored_as_it_was_and_into_another_layout():
    twinned, origin = saved(fresh_url(), mask_bytes=2)
    for capacity in (20, 64):
        table, _ = twinned.restored(origin, capacity=capacity)
        before = {version: item[1] for version, item in contents(twinned.table).items()}
        assert {version: item[1] for version, item in contents(table).items()} == before

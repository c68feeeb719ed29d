"""Helpers of the tests of shards on disk: a table with its naive twin, and comparisons."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial

import numpy as np

from common.errors import UnknownFramesError
from replay_server.codec import GROUP_FRAMES, Codec
from replay_server.shard_checkpoint import ShardSaver
from replay_server.shard_restore import ShardRestore, restore_shard
from support.replay import (
    PICTURE,
    VECTOR,
    NaiveTable,
    make_table,
    random_chunk,
)

KINDS = [
    ("none", PICTURE),
    ("lz4", PICTURE),
    ("zstd", PICTURE),
    ("png", PICTURE),
    ("none", VECTOR),
    ("zstd", VECTOR),
]
FOLDER = "000001-step-00000001"


def fresh_url():
    return f"memory://{uuid.uuid4()}"


class TwinnedTable:
    """A table and its naive twin, and what happens to both. Items have unique versions."""

    def __init__(self, seed=0, kind=KINDS[0], stack=2, alpha=0.6, **named):
        self.compression, self.spec = kind
        self.rng, self.stack = np.random.default_rng(seed), stack
        self.named = {"capacity": 12, "frame_capacity": 40, **named}
        self.make = partial(
            make_table,
            stack=stack,
            alpha=alpha,
            spec=self.spec,
            compression=self.compression,
            **self.named,
        )
        self.table = self.make(incarnation=1)
        self.saver = ShardSaver(self.table, self.spec)
        group = 1 if self.compression == "none" else GROUP_FRAMES
        sizes = self.named["capacity"], self.named["frame_capacity"]
        self.twin = NaiveTable(*sizes, stack, alpha, incarnation=1, group=group)
        self.number, self.version = 0, 0

    def insert(self, reuse=True):
        table, twin, rng = self.table, self.twin, self.rng
        count = int(rng.integers(1, min(6, table.capacity) + 1))
        named = len(twin.streams.get(0, ())) if reuse else 0
        reused = rng.integers(0, named, rng.integers(0, named + 1)) if named else []
        own = int(rng.integers(0 if len(reused) else 1, 7))
        priority = rng.random(count) * rng.choice([0.0, 0.5, 9.0]) if rng.random() < 0.8 else None
        frames = len(reused) + own
        mask_bytes = self.named.get("mask_bytes", 0)
        chunk = random_chunk(rng, count, frames, self.stack, self.spec, priority, mask_bytes)
        chunk.columns["version"] = np.arange(self.version, self.version + count)
        chunk.frames, chunk.reused = chunk.frames[len(reused) :], np.array(reused, np.int32)
        chunk.number = self.number + 1
        sent = chunk
        if self.compression != "none":
            packed = Codec(self.compression, self.spec).pack(chunk.frames)
            sent = replace(chunk, frames=packed)
        try:
            table.insert(sent)
        except UnknownFramesError:
            return
        twin.insert(chunk)
        self.number += 1
        self.version += count

    def update(self):
        keys = self.twin.inserted - 1 - self.rng.integers(0, self.table.capacity, 4)
        priorities = self.rng.random(4) * 3
        self.table.update_priorities(keys, priorities, 1)
        self.twin.update_priorities(keys, priorities, 1)

    def advance(self, rounds, reuse=True):
        for _ in range(rounds):
            self.insert(reuse)
            if self.rng.random() < 0.3:
                self.update()
            if self.rng.random() < 0.3:
                self.table.sample(3)
        return self

    def save(self, url, name=f"{FOLDER}/shard-0.rdqn"):
        self.saver.begin(url, name, background=False)
        files = self.saver.outcome()
        assert files is not None
        return ShardRestore(url, (name,), files, 0, 1)

    def restored(self, origin, **named):
        """A table and its saver, with another random state than this one's."""
        table = self.make(seed=77, **named)
        saver = ShardSaver(table, self.spec)
        restore_shard(table, saver, self.spec, origin)
        table.check()
        return table, saver


def contents(table):
    """Version → everything else of each live item, stacks whole; by itself, from the rows."""
    live = table.live_slots()
    items, masses = table.items[live], table.tree.get(live)
    rows = np.unique(items["stacks"])
    frames = np.empty((len(rows), *table.frame.shape), table.frame.dtype)
    if len(rows):
        table.frames.gather(rows, frames)
    found = {}
    for item, mass, times in zip(items, masses, table.times_sampled[live], strict=True):
        whole = frames[np.searchsorted(rows, item["stacks"])].tobytes()
        values = [column.name for column in table.item.values if column.name != "version"]
        rest = tuple(item[name].tobytes() for name in values)
        found[int(item["version"])] = (whole, rest, float(mass), int(times))
    assert len(found) == len(table), "an item is there twice"
    return found

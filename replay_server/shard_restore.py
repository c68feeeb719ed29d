"""Restoring a shard: exactly as it was, or with its share of the items of other shards."""

from __future__ import annotations

from dataclasses import dataclass

from common.checkpoint import Files
from common.storage import open_storage
from common.types import FrameSpec
from replay_server.shard_checkpoint import ShardSaver
from replay_server.shard_deal import deal
from replay_server.shard_read import fill, naming, read_shard
from replay_server.table import Table
from replay_server.table_image import layout_of


@dataclass(frozen=True, slots=True)
class ShardRestore:
    """A shard's part of a checkpoint, to start with.

    Attributes:
        url: of the storage.
        shards: names of the files of all shards of the checkpoint.
        files: entries of the checkpoint's files.
        part, parts: this shard's index, and the number of shards now.
    """

    url: str
    shards: tuple[str, ...]
    files: Files
    part: int
    parts: int


def restore_shard(table: Table, saver: ShardSaver, frame: FrameSpec, restore: ShardRestore) -> None:
    """Fill an empty table with its part of a checkpoint.

    If the number of shards and their layout are unchanged, the table becomes exactly what it was.
    Otherwise all items are dealt out again, oldest first, in blocks of neighbours: none twice, and
    all of them except the oldest, where there is less room now.

    Args:
        table: empty.
        saver: of the table; it learns which segments need not be written again.
        frame: shape and type of a frame.
        restore: the part of the checkpoint.

    Raises:
        CheckpointError: a file that is missing, damaged, or cannot be understood.
    """
    storage = open_storage(restore.url)
    if len(restore.shards) == restore.parts:
        name = restore.shards[restore.part]
        saved = read_shard(storage, name, restore.files)
        if saved.image.layout == layout_of(table):
            with naming(restore.url, name):
                fill(table, saved, storage, restore.files)
            saver.add_known(restore.url, saved.segments, restore.files)
            return
    deal(table, storage, frame, restore.shards, restore.files, restore.part, restore.parts)

"""Dealing the items of saved shards out to another number or layout of shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from common.checkpoint import Files
from common.item import ItemSpec
from common.storage import Storage
from common.text import counted
from common.types import FrameSpec
from replay_server.codec import COMPRESSIONS, GROUP_FRAMES, make_codec
from replay_server.frames import MAX_ROWS
from replay_server.layout import natural
from replay_server.shard_file import SavedShard
from replay_server.shard_read import fill, naming, read_shard
from replay_server.table import Table
from replay_server.table_image import layout_of
from replay_server.table_transfer import chunks_of, insert_copied

CHUNK_ITEMS = 1024
"""Items that are copied from another shard at once."""
PASS_ITEMS = 4096
"""Neighbours that stay together when items are dealt out: they share frames. With fewer, more
frames are needed in several shards."""
MAX_PASSES = 64
MAX_OVERHEAD_BYTES = 1024
"""More than compression adds to a group that it cannot make smaller."""


def deal(
    table: Table,
    storage: Storage,
    frame: FrameSpec,
    names: Sequence[str],
    files: Files,
    part: int,
    parts: int,
) -> None:
    """Insert a part's share of the items of all shards, oldest first as far as ages are known.

    Args:
        table: empty.
        storage: of the checkpoint.
        frame: shape and type of a frame.
        names: of the files of all shards.
        files: entries of the checkpoint's files.
        part, parts: index of the table's shard, and the number of shards now.

    Raises:
        CheckpointError: see `restore_shard`.
    """
    sources: list[Table] = []
    for name in names:
        with naming(storage.url, name):
            saved = read_shard(storage, name, files)
            before = table_for(saved, frame, files)
            fill(before, saved, storage, files)
            _check_same_item(before.item, table.item)
            table.expect_priority(saved.image.max_priority)
            sources.append(before)
    size = _chunk_items(table, frame)
    for source, first, count in share([len(s) for s in sources], part, parts):
        with naming(storage.url, names[source]):  # unpacking frames may fail
            for chunk, times_sampled in chunks_of(sources[source], first, count, size):
                insert_copied(table, chunk, times_sampled)


def _check_same_item(before: ItemSpec, item: ItemSpec) -> None:
    if before.stack != item.stack:
        raise ValueError(f"stacks of {counted(before.stack, 'frame')}: must be {item.stack}")
    if before.mask_bytes != item.mask_bytes:
        raise ValueError(f"{_masks(before)}: must have {_masks(item)}")
    more = [str(column) for column in before.columns if column not in item.columns]
    less = [str(column) for column in item.columns if column not in before.columns]
    if more or less:
        raise ValueError(
            f"items with {', '.join(more) or 'no other columns'} and without "
            f"{', '.join(less) or 'none'}, as the configuration was another; resume with that one"
        )


def _masks(item: ItemSpec) -> str:
    if not item.mask_bytes:
        return "no action masks"
    return f"action masks of {counted(item.mask_bytes, 'byte')}"


def _chunk_items(table: Table, frame: FrameSpec) -> int:
    """Items of a chunk that fits the table, even if each frame needs a group of its own."""
    rows = table.frames.capacity
    if table.max_frame_bytes is not None:
        group_bytes = GROUP_FRAMES * frame.nbytes + MAX_OVERHEAD_BYTES
        rows = min(rows, table.max_frame_bytes // group_bytes * GROUP_FRAMES)
    # An item has as many frames as its stacks, in as many groups, and a third more are not full.
    frames = table.item.num_stacks * table.item.stack
    return max(1, min(CHUNK_ITEMS, table.capacity, 2 * rows // (3 * GROUP_FRAMES * frames)))


def share(sizes: Sequence[int], part: int, parts: int) -> Iterator[tuple[int, int, int]]:
    """One part's share of items that lie in several places, oldest first.

    The sizes of the parts differ by one item at the most: none overflows while another has room.

    Args:
        sizes: items in each place.
        part, parts: index of the part, and how many parts there are.

    Yields:
        Place, first item there, and how many.
    """
    each = sum(sizes) // parts
    passes = min(MAX_PASSES, max(1, each // PASS_ITEMS))
    # All items in a row: the first piece of each place, then the second of each, and so on.
    pieces = [
        (place, n * size // passes, (n + 1) * size // passes)
        for n in range(passes)
        for place, size in enumerate(sizes)
    ]
    mine = []
    for n in range(passes):
        begin = parts * (n * each // passes)
        end = parts * ((n + 1) * each // passes) if n + 1 < passes else sum(sizes)
        span = end - begin
        mine.append((begin + part * span // parts, begin + (part + 1) * span // parts))
    position = 0
    for place, first, last in pieces:
        for begin, end in mine:
            low, high = max(begin - position, 0), min(end - position, last - first)
            if low < high:
                yield place, first + low, high - low
        position += last - first


def table_for(saved: SavedShard, frame: FrameSpec, files: Files) -> Table:
    """An empty table just large enough for a saved shard; renumbers the rows in the shard's items.

    Its size comes from the data that is there, not from the sizes that the layout claims.

    Raises:
        ValueError: frames of another kind, or impossible sizes.
    """
    image, layout = saved.image, saved.image.layout
    if (layout["frame_shape"], layout["frame_dtype"]) != (list(frame.shape), frame.dtype):
        raise ValueError(f"frames of {layout['frame_dtype']!r:.40} {layout['frame_shape']!r:.40}")
    if layout["compression"] not in COMPRESSIONS:
        raise ValueError(f"compression={layout['compression']!r:.40}")
    codec = make_codec(layout["compression"], frame)
    rows, count = natural(layout["frame_rows"], "frame_rows"), image.frame_count
    there = sum(column.nbytes for column in saved.frames.values())
    there += sum(files[s.name]["bytes"] for s in saved.segments if s.name in files)
    least = count * frame.nbytes if codec is None else count // GROUP_FRAMES
    if not 0 <= count <= min(rows, MAX_ROWS) or least > there:
        size = f"{counted(rows, 'row')} and {counted(there, 'byte')}"
        raise ValueError(f"{counted(count, 'frame')} in {size}: impossible")
    table = Table(
        capacity=max(1, len(image.items)),
        frame=frame,
        item=saved.item,
        alpha=layout["alpha"],
        frame_capacity=max(1, count),
        rng=np.random.default_rng(0),  # nothing is drawn
        codec=codec,
    )
    stacks = image.items["stacks"].astype(np.int64)
    behind = (stacks - image.first_frame) % max(1, rows)
    if not ((stacks >= 0) & ((behind < count) & (stacks < rows) | (stacks == rows))).all():
        raise ValueError("a stack names a frame that is not there")
    numbers = (image.first_frame + behind) % table.frames.capacity
    image.items["stacks"] = np.where(stacks == rows, table.frames.capacity, numbers)
    image.layout = layout_of(table)
    return table

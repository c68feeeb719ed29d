"""The image of a table: everything but its frames, for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.text import counted
from common.types import Array
from replay_server.layout import layout_of_item
from replay_server.table import Table

COUNTERS = ("sampled", "stale", "refused", "orphaned", "evicted_unsampled")
"""Attributes of a table that only count events."""


@dataclass(slots=True)
class TableImage:
    """A table without its frames.

    Attributes:
        items: `[L]`, live items, oldest first; their stacks name rows of the frame store.
        mass: `[L]` float64. times_sampled: `[L]` uint32.
        runs: `[R, 2]` int64, see `FrameRetention`.
        first_frame, written_frames: numbers of the oldest frame, and of the next.
        layout: see `layout_of`.
        inserted: items ever inserted; the key of the newest is one less.
        counters: see `COUNTERS`.
        max_priority: the greatest priority so far. newest_version: of the weights that acted.
    """

    items: Array
    mass: Array
    times_sampled: Array
    runs: Array
    first_frame: int
    written_frames: int
    layout: dict[str, Any]
    inserted: int
    counters: dict[str, int]
    max_priority: float
    newest_version: int

    @property
    def frame_count(self) -> int:
        """Frames in the table."""
        return self.written_frames - self.first_frame

    def without_frames_before(self, first_frame: int) -> None:
        """Remove the items that need frames older than `first_frame`."""
        if first_frame <= self.first_frame:
            return
        self.first_frame = first_frame
        kept = int(np.searchsorted(self.runs[:, 1], first_frame))
        first_key = int(self.runs[kept, 0]) if kept < len(self.runs) else self.inserted
        gone = max(0, len(self.items) - (self.inserted - first_key))
        self.runs = self.runs[kept:]
        self.items, self.mass = self.items[gone:], self.mass[gone:]
        self.times_sampled = self.times_sampled[gone:]


def image_of(table: Table) -> TableImage:
    """A copy of the table without its frames; later changes of the table do not reach it."""
    live = table.live_slots()
    return TableImage(
        items=table.items[live],
        mass=table.tree.get(live),
        times_sampled=table.times_sampled[live],
        runs=np.array(table.retention.runs, np.int64).reshape(-1, 2),
        first_frame=table.frames.first,
        written_frames=table.frames.written,
        layout=layout_of(table),
        inserted=table.inserted,
        counters={name: getattr(table, name) for name in COUNTERS},
        max_priority=table.max_priority,
        newest_version=table.newest_version,
    )


def layout_of(table: Table) -> dict[str, Any]:
    """The properties that two tables must share for one to take over the other's image."""
    return {
        "capacity": table.capacity,
        "frame_rows": table.frames.capacity,
        "frame_shape": list(table.frame.shape),
        "frame_dtype": table.frame.dtype,
        "alpha": table.alpha,
        "compression": "none" if table.codec is None else table.codec.kind,
        **layout_of_item(table.item),
    }


def restore_image(table: Table, image: TableImage) -> None:
    """Give an empty table the items of an image. Its `frames` hold those of the image already.

    Raises:
        ValueError: an image of another layout, or one that contradicts itself.
    """
    if image.layout != layout_of(table):
        raise ValueError("image of a table of another layout")
    count = len(image.items)
    oldest = image.inserted - count
    if oldest < 0 or count > table.capacity:
        raise ValueError(f"{counted(count, 'item')} of {image.inserted}: impossible")
    if len(image.runs) and image.runs[-1, 0] >= image.inserted:
        raise ValueError(f"a run from item {image.runs[-1, 0]} on: there is none")
    table.inserted, table.oldest = image.inserted, oldest
    for name, value in image.counters.items():
        setattr(table, name, value)
    table.max_priority, table.newest_version = image.max_priority, image.newest_version
    table.retention.runs.extend(map(tuple, image.runs.tolist()))
    live = table.live_slots()
    table.items[live] = image.items
    table.times_sampled[live] = image.times_sampled
    table.tree.set(live, image.mass)
    table.make_room(0, 0, 0, table.frames.written)  # the limit of bytes may be lower now
    try:
        table.check()
    except AssertionError as error:
        raise ValueError(f"an image that contradicts itself ({error})") from None

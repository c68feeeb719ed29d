"""The file of a shard: its items and its newest frames, in wire format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import wire
from common.item import ItemSpec
from common.types import Array
from replay_server.layout import item_of_layout, natural
from replay_server.table import PRIORITY_FLOOR
from replay_server.table_image import COUNTERS, TableImage

FORMAT = 1
MAX_PRIORITY = 1e100
"""Sums of greater priorities might overflow; no TD error is so large."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of frames.

    Attributes:
        name: of the file.
        first: number of its first frame.
        count: frames.
    """

    name: str
    first: int
    count: int

    @property
    def end(self) -> int:
        """Number after that of the last frame."""
        return self.first + self.count


@dataclass(slots=True)
class SavedShard:
    """The content of a shard's file; see `encode_shard`."""

    image: TableImage
    item: ItemSpec
    rest: int
    frames: dict[str, Array]
    segments: list[Segment]


def encode_shard(
    image: TableImage, rest: int, frames: dict[str, Array], segments: Sequence[Segment]
) -> Array:
    """The file of a shard.

    Args:
        image: of its table.
        rest: number of the first frame that no segment holds.
        frames: from number `rest` on, as `FrameStore.export` gives them.
        segments: files of the frames before.
    """
    columns = {f"item.{field}": image.items[field] for field in image.items.dtype.names or ()}
    columns |= {"mass": image.mass, "times_sampled": image.times_sampled, "runs": image.runs}
    columns |= {f"frame.{name}": column for name, column in frames.items()}
    meta = {
        "format": FORMAT,
        "layout": image.layout,
        "counters": image.counters,
        "max_priority": image.max_priority,
        "first_frame": image.first_frame,
        "written_frames": image.written_frames,
        "inserted": image.inserted,
        "newest_version": image.newest_version,
        "rest": rest,
        "segments": [[s.name, s.first, s.count] for s in segments],
    }
    return wire.encode(columns, meta)


def decode_shard(data: Array) -> SavedShard:
    """Read the file that `encode_shard` wrote.

    Raises:
        ValueError: another kind of file (a `WireError`), or impossible values.
    """
    arrays, meta = wire.decode(data)
    try:
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']!r:.40}: must be {FORMAT}")
        layout, counters = dict(meta["layout"]), dict(meta["counters"])
        segments = [
            Segment(str(name), natural(first, name), natural(count, name))
            for name, first, count in meta["segments"]
        ]
        if set(counters) != set(COUNTERS):
            raise ValueError("counters of another table")
        for name, value in counters.items():
            natural(value, name)
        alpha, max_priority = float(layout["alpha"]), float(meta["max_priority"])
        if not 0 <= alpha <= 1 or not 0 <= max_priority < MAX_PRIORITY:
            raise ValueError(f"alpha={alpha}, max_priority={max_priority}")
        item = item_of_layout(layout)
        items = _items(arrays, item)
        mass = _column(arrays, "mass", np.float64, items.shape)
        greatest = (max_priority + PRIORITY_FLOOR) ** alpha * (1 + 1e-9)  # rounding allowed for
        if not ((mass > 0) & (mass <= greatest)).all():
            raise ValueError("a mass that no priority gives")
        runs = _column(arrays, "runs", np.int64, (-1, 2))
        if len(runs) and not (runs[0, 0] >= 0 and (np.diff(runs, axis=0) >= 0).all()):
            raise ValueError("runs out of order")
        image = TableImage(
            items=items,
            mass=mass,
            times_sampled=_column(arrays, "times_sampled", np.uint32, items.shape),
            runs=runs,
            first_frame=natural(meta["first_frame"], "first_frame"),
            written_frames=natural(meta["written_frames"], "written_frames"),
            layout=layout,
            inserted=natural(meta["inserted"], "inserted"),
            counters=counters,
            max_priority=max_priority,
            newest_version=natural(meta["newest_version"], "newest_version"),
        )
        rest = natural(meta["rest"], "rest")
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a shard: {error!r}") from None
    begin = "frame."
    frames = {n.removeprefix(begin): a for n, a in arrays.items() if n.startswith(begin)}
    return SavedShard(image, item, rest, frames, segments)


def _column(
    arrays: dict[str, Array], name: str, dtype: type | np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """A column of this type and shape; −1 in the shape allows any length."""
    column = arrays[name]
    fits = len(column.shape) == len(shape) and all(
        wanted in (-1, is_) for is_, wanted in zip(column.shape, shape, strict=True)
    )
    if column.dtype != dtype or not fits:
        raise ValueError(f"column {name!r} of {column.dtype} {list(column.shape)}")
    return column


def _items(arrays: dict[str, Array], item: ItemSpec) -> Array:
    dtype = item.dtype
    count = len(arrays[f"item.{item.values[0].name}"])
    columns = {
        name: _column(arrays, f"item.{name}", dtype[name].base, (count, *dtype[name].shape))
        for name in dtype.names or ()
    }
    items: Array = np.empty(count, dtype)  # only now: the file really has so many bytes
    for name, column in columns.items():
        items[name] = column
    return items
